"""One system under one load: what it answers is checked, it is warmed up, loaded, and its answers checked again."""

import contextlib
import gzip
import http.client
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from deploy.demo.processes import HOST
from loadtests.compare.figures import Load, ReportError, Sample, parse_wrk
from loadtests.compare.kinds import LOAD_CORE
from loadtests.compare.scenarios import Scenario
from loadtests.compare.systems import Running, pinned, program
from loadtests.compare.usage import cpu_seconds, pss_bytes

GRACE_SECONDS: Final = 8
ASK_SECONDS: Final = 5
WARM_SECONDS: Final = 20
LEAST_L2_SHARE: Final = 0.9
_SCRIPTS: Final = Path(__file__).parent / "wrk"
_WARM_STRAYS: Final = 2


@contextlib.contextmanager
def noted(failures: dict[str, str], name: str) -> Iterator[None]:
    """Keep what goes wrong in the block as `failures[name]`, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # one system that fails, however, must not cost the others' figures
        failures[name] = f"{type(error).__name__}: {error}"


def ask(port: int, scenario: Scenario, headers: dict[str, str]) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request of a scenario; status, fields and body."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ASK_SECONDS)
    try:
        content = b"x" * 1024 if scenario.method == "POST" else None
        connection.request(scenario.method, scenario.path, content, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def check(scenario: Scenario, running: Running, content: bytes) -> dict[str, str]:
    """See to it that a system answers as the scenario says, to the byte; the fields to send, entity-tag filled in.

    Args:
        content: what the body is to be, decoded: a proxy may compress it anew.

    Raises:
        ReportError: it does not.
    """
    plain = {name: value for name, value in scenario.headers if "{etag}" not in value}
    _, first, _ = ask(running.port, scenario, plain)
    headers = {name: value.format(etag=first.get("ETag", "")) for name, value in scenario.headers}
    for _ in range(2):  # the second comes from the cache
        status, fields, body = ask(running.port, scenario, headers)
        if status != scenario.status or fields.get("Content-Encoding") != scenario.coding:
            raise ReportError(f"answered {status}, {' '.join(str(fields).split())}")
        if (gzip.decompress(body) if scenario.coding == "gzip" else body) != content:
            raise ReportError(f"answered another body, of {len(body)} bytes")
    return headers


def origin_requests(port: int) -> int:
    """How many requests the origin has had, this question included."""
    return int(_get(port, "/origin-status").split(b"\n")[2].split()[2])


def cache_stats(running: Running) -> dict[str, Any]:
    """What a Sidecache says of its tiers."""
    stats: dict[str, Any] = orjson.loads(_get(running.admin_port, "/admin/cache/stats"))["tiers"]
    return stats


def _get(port: int, path: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # HTTP_PROXY is not for the loopback
    with opener.open(f"http://{HOST}:{port}{path}", timeout=ASK_SECONDS) as response:
        content: bytes = response.read()
        return content


def wrk_command(
    scenario: Scenario, port: int, headers: dict[str, str], seconds: int, run: str, sent: int = 0
) -> list[str]:
    """The command that loads a system for a time. `run` tells the keys of one run from those of others; a script that
    goes through its keys in turn goes on after the first `sent` of them.
    """
    command = [program("wrk"), "--latency", "--threads", "1", "--timeout", "5s"]
    command += ["--connections", str(scenario.connections), "--duration", f"{seconds}s"]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    if scenario.script:
        command += ["--script", str(_SCRIPTS / scenario.script)]
    command += [f"http://{HOST}:{port}{scenario.path}"]
    if scenario.arguments:
        command += ["--", *(argument.format(run=run, sent=sent) for argument in scenario.arguments)]
    return pinned(LOAD_CORE, command)


def load(scenario: Scenario, running: Running, headers: dict[str, str], seconds: int, run: str, sent: int = 0) -> Load:
    """Load a system, for `seconds` or the least that the scenario needs. For `run` and `sent` see `wrk_command`.

    Raises:
        ReportError: there were errors.
        subprocess.SubprocessError: wrk failed, or did not end.
    """
    seconds = max(seconds, scenario.least_seconds)
    command = wrk_command(scenario, running.port, headers, seconds, run, sent)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE_SECONDS, check=True)
    return parse_wrk(done.stdout)


def warm(scenario: Scenario, running: Running, origin_port: int, headers: dict[str, str]) -> None:
    """Load until every key was asked for often enough, and the origin is asked no more where a cache is to answer.

    Raises:
        ReportError: the origin is still asked when the time is up.
    """
    deadline = time.monotonic() + WARM_SECONDS
    sent = attempt = 0
    while True:
        before = origin_requests(origin_port)
        sent += load(scenario, running, headers, 1, f"warm{attempt}", sent).requests
        attempt += 1
        asked = origin_requests(origin_port) - before - 1
        quiet = scenario.origin == "all" or asked <= max(_WARM_STRAYS, scenario.stray_share * sent / attempt)
        if quiet and sent >= scenario.warm_requests:
            return
        if time.monotonic() > deadline:
            if quiet:
                return  # slow, not wrong
            raise ReportError(f"does not cache: the origin was still asked {asked} times in a second")


def sample(
    scenario: Scenario, running: Running, origin_port: int, headers: dict[str, str], seconds: int, run: str
) -> Sample:
    """Load a system once, and judge by what the origin and the cache counted whether it did what this is about.

    Raises:
        ReportError: it did not, or there were errors.
    """
    stats = cache_stats(running) if running.admin_port else {}
    asked, used = origin_requests(origin_port), cpu_seconds(running.pid)
    loaded = load(scenario, running, headers, seconds, run)
    used = cpu_seconds(running.pid) - used
    asked = origin_requests(origin_port) - asked - 1
    stray = loaded.requests * scenario.stray_share
    if running.kind != "origin" and (asked > stray if scenario.origin == "none" else asked < loaded.requests - stray):
        raise ReportError(f"{asked} of {loaded.requests} requests reached the origin")
    share = _judge_tiers(scenario, running, stats, loaded) if running.admin_port else None
    return Sample(loaded, 1e6 * used / loaded.requests, pss_bytes(running.pid), share)


def _judge_tiers(scenario: Scenario, running: Running, before: dict[str, Any], loaded: Load) -> float | None:
    after = cache_stats(running)
    if scenario.evicts and after["l1"]["evictions"] <= before["l1"]["evictions"]:
        raise ReportError("nothing was evicted")
    if not (scenario.from_l2 and after["l2"]):
        return None
    # Those under way when wrk stops are counted by the tier alone.
    share: float = min((after["l2"]["hits"] - before["l2"]["hits"]) / loaded.requests, 1.0)
    if share < LEAST_L2_SHARE:
        raise ReportError(f"{share:.0%} of the requests were answered by the second tier")
    return share
