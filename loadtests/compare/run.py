"""`make compare`: Sidecache beside nginx, HAProxy and Varnish on the loopback interface.

All systems of a scenario run at once, and are loaded in turn, round after round; ratios are taken within a round, and
their medians are reported. What a system answers is checked before it is loaded, and the origin's own count tells
afterwards whether hits were hits. The status is 0 if everything could be measured, whether or not the floors are met.
"""

import argparse
import contextlib
import http.client
import os
import resource
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final

from deploy.demo.processes import HOST, ROOT, StartError
from loadtests.compare import systems
from loadtests.compare.figures import ReportError, Sample, middle, parse_wrk
from loadtests.compare.scenarios import SCENARIOS, Scenario
from loadtests.compare.table import Outcome, as_json, as_markdown, as_svg, judged

HERE: Final = Path(__file__).parent
RESULTS: Final = ROOT / "loadtests" / "results" / "compare.json"
GRACE_SECONDS: Final = 20
STRAY_SHARE: Final = 0.001  # of requests, that may reach the origin though they should hit, and the other way round


def ask(port: int, scenario: Scenario, headers: dict[str, str]) -> tuple[int, http.client.HTTPMessage, int]:
    """One request of a scenario; status, fields, and bytes of body."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        content = b"x" * 1024 if scenario.method == "POST" else None
        connection.request(scenario.method, scenario.path, content, headers)
        response = connection.getresponse()
        return response.status, response.headers, len(response.read())
    finally:
        connection.close()


def check(scenario: Scenario, running: systems.Running) -> dict[str, str]:
    """See to it that a proxy answers as the scenario says; the fields to send, with the entity-tag filled in.

    Raises:
        ReportError: it does not.
    """
    _, first, _ = ask(running.port, scenario, {})
    headers = {name: value.format(etag=first.get("ETag", "")) for name, value in scenario.headers}
    for _ in range(2):  # the second comes from the cache
        status, fields, size = ask(running.port, scenario, headers)
        wrong = status != scenario.status or fields.get("Content-Encoding") != scenario.coding
        if wrong or (scenario.body_bytes is not None and size != scenario.body_bytes):
            raise ReportError(f"{scenario.name}: {running.kind} answers {status} with {size} bytes\n{fields}")
    return headers


def origin_requests(port: int) -> int:
    """How many requests the origin has had."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{HOST}:{port}/origin-status", timeout=5) as response:
        return int(response.read().split(b"\n")[2].split()[2])


def wrk(scenario: Scenario, port: int, headers: dict[str, str], seconds: int, run: str) -> str:
    """Load a proxy; what wrk reports."""
    command = [systems.program("wrk"), "--latency", "--threads", "1", "--timeout", "10s"]
    command += ["--connections", str(scenario.connections), "--duration", f"{seconds}s"]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    if scenario.script:
        command += ["--script", str(HERE / "wrk" / scenario.script)]
    command += [f"http://{HOST}:{port}{scenario.path}"]
    if scenario.arguments:
        command += ["--", *(argument.format(run=run) for argument in scenario.arguments)]
    done = subprocess.run(
        systems.pinned(systems.LOAD_CORE, command),
        capture_output=True,
        text=True,
        timeout=seconds + GRACE_SECONDS,
        check=True,
    )
    return done.stdout


def warm(scenario: Scenario, running: systems.Running, origin: int, headers: dict[str, str]) -> None:
    """Load until the origin is asked no more where answers are to come from a cache; else for a second.

    Raises:
        ReportError: the origin is still asked after ten seconds.
    """
    for attempt in range(10):
        before = origin_requests(origin)
        wrk(scenario, running.port, headers, 1, f"warm{attempt}")
        if scenario.origin == "all" or origin_requests(origin) - before <= 2:
            return
    raise ReportError(f"{scenario.name}: {running.kind} does not cache")


def sample(
    scenario: Scenario, running: systems.Running, origin: int, headers: dict[str, str], seconds: int, run: str
) -> Sample:
    """Load a proxy once, and judge by the origin's count whether it did what the scenario is about.

    Raises:
        ReportError: it did not, or there were errors.
    """
    asked, used = origin_requests(origin), systems.cpu_seconds(running.pid)
    report = wrk(scenario, running.port, headers, seconds, run)
    used = systems.cpu_seconds(running.pid) - used
    asked = origin_requests(origin) - asked - 1  # this question is counted too
    try:
        load = parse_wrk(report)
    except ReportError as error:
        raise ReportError(f"{scenario.name}: {running.kind}: {error}") from error
    stray = load.requests * STRAY_SHARE
    if (scenario.origin == "none" and asked > stray) or (scenario.origin == "all" and asked < load.requests - stray):
        raise ReportError(f"{scenario.name}: {running.kind}: {asked} of {load.requests} requests reached the origin")
    return Sample(load, 1e6 * used / max(load.requests, 1), systems.pss_bytes(running.pid))


def compare(scenario: Scenario, kinds: Sequence[str], rounds: int, seconds: int) -> Outcome:
    """Measure one scenario.

    Raises:
        StartError: a system does not start.
        ReportError: a system answers wrongly.
    """
    with directory() as place, contextlib.ExitStack() as stack:
        origin = stack.enter_context(systems.origin(place))
        proxies = [stack.enter_context(systems.proxy(kind, place, origin)) for kind in kinds]
        headers = {one.kind: check(scenario, one) for one in proxies}
        for one in proxies:
            warm(scenario, one, origin, headers[one.kind])
        measured = []
        for number in range(rounds):
            # The other way round each time: who comes first has no advantage.
            ordered = proxies if number % 2 == 0 else proxies[::-1]
            measured.append(
                {
                    one.kind: sample(scenario, one, origin, headers[one.kind], seconds, f"round{number}")
                    for one in ordered
                }
            )
    middles = {kind: middle([samples[kind] for samples in measured]) for kind in kinds}
    return Outcome(scenario, middles, tuple(measured))


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A directory in memory where the machine has one: nginx's cache is then as far from the disk as the others'."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="sidecache-compare-", dir=shared if shared.is_dir() else None) as name:
        yield Path(name)


def version(command: list[str]) -> str:
    """The first line of what a program says of its version."""
    done = subprocess.run([systems.program(command[0]), *command[1:]], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def machine() -> dict[str, str]:
    """What the figures depend on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": model[0].partition(": ")[2] if model else "unknown",
        "cores": str(os.cpu_count()),
        "python": sys.version.split()[0],
        "nginx": version(["nginx", "-v"]),
        "haproxy": version(["haproxy", "-v"]),
        "varnish": version(["varnishd", "-V"]),
        "wrk": version(["wrk", "-v"]),
    }


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description="Sidecache beside nginx, HAProxy and Varnish.")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--system", action="append", choices=systems.KINDS, help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each run of wrk")
    parser.add_argument("--store", action="store_true", help="write the result though it is a part only")
    return parser.parse_args()


def store(outcomes: list[Outcome], about: dict[str, str]) -> None:
    """Write the result for machines, for readers and for the README."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_bytes(as_json(outcomes, about))
    (ROOT / "docs" / "compare.md").write_text(as_markdown(outcomes, about), encoding="utf-8")
    (ROOT / "docs" / "compare.svg").write_text(as_svg(outcomes, about), encoding="utf-8")


def main() -> int:
    chosen = options()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = systems.OPEN_FILES if most == resource.RLIM_INFINITY else min(systems.OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))  # the children have it from here

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    outcomes: list[Outcome] = []
    failures = 0
    for scenario in SCENARIOS:
        kinds = [kind for kind in scenario.systems if not chosen.system or kind in chosen.system]
        if not kinds or (chosen.scenario and scenario.name not in chosen.scenario):
            continue
        try:
            outcomes.append(compare(scenario, kinds, chosen.rounds, chosen.seconds))
        except (StartError, ReportError, OSError, http.client.HTTPException, subprocess.SubprocessError) as error:
            print(f"{scenario.name} FAILED: {error}", file=sys.stderr, flush=True)
            failures += 1
            continue
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130
        print(judged(outcomes[-1]), flush=True)
    whole = not (chosen.scenario or chosen.system or failures)
    if outcomes and (whole or chosen.store):
        store(outcomes, machine())
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
