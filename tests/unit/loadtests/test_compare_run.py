"""The comparison on real servers, where they are installed: what fails is marked, and costs the others nothing."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typing_extensions import override

from deploy.demo.processes import HOST, ROOT, StartError
from loadtests.compare import systems
from loadtests.compare.figures import ReportError
from loadtests.compare.kinds import KINDS, Kind, sidecache_config
from loadtests.compare.measure import check, load, noted, origin_requests, sample
from loadtests.compare.memory import idle_connections
from loadtests.compare.run import compare, expected, version
from loadtests.compare.scenarios import SCENARIOS
from loadtests.compare.systems import Running, Stage
from loadtests.compare.usage import cpu_seconds, disk_bytes, pss_bytes, tree
from proxy.config import load as load_config

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
HIT = BY_NAME["hit_1k"]


def installed(*names: str) -> bool:
    try:
        return all(systems.program(name) for name in names)
    except StartError:
        return False


needs_servers = pytest.mark.skipif(not installed("nginx", "wrk", "taskset"), reason="nginx or wrk is not installed")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as one:
        yield one


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.family == "sidecache"], ids=lambda k: k.name)
def test_each_sidecache_has_a_configuration_that_is_accepted(kind: Kind, tmp_path: Path) -> None:
    text = sidecache_config(kind, tmp_path, 1, 2, 3, 4)
    assert load_config(None, text).values.workers == tomllib.loads(text)["workers"]


def test_floors_speak_of_systems_that_their_scenario_runs() -> None:
    for scenario in SCENARIOS:
        assert {floor.against for floor in scenario.floors} <= set(scenario.systems) <= KINDS.keys()
        assert {floor.over for floor in scenario.floors} <= {None, *scenario.systems}


def test_scenarios_are_told_apart_by_name_and_by_title() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len({one.title for one in SCENARIOS}) == len(SCENARIOS)


def fail(error: BaseException) -> None:
    raise error


def test_what_goes_wrong_is_noted_and_an_order_to_end_is_not_swallowed() -> None:
    failures: dict[str, str] = {}
    with noted(failures, "nginx"):
        fail(StartError("no port"))
    assert failures == {"nginx": "StartError: no port"}
    with pytest.raises(KeyboardInterrupt), noted(failures, "all"):
        fail(KeyboardInterrupt())
    assert failures.keys() == {"nginx"}


@needs_servers
def test_a_system_that_cannot_start_is_marked_and_the_others_are_measured(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = systems.program

    def without_haproxy(name: str) -> str:
        if name == "haproxy":
            raise StartError("haproxy is not installed")
        return found(name)

    monkeypatch.setattr(systems, "program", without_haproxy)
    outcome = compare(HIT, stage, ("nginx", "haproxy"), 1, 1, time.monotonic() + 60)
    assert "haproxy is not installed" in outcome.failures["haproxy"]
    assert outcome.samples("haproxy") == []
    [measured] = outcome.samples("nginx")
    assert measured.load.requests > 0
    assert measured.cpu_us > 0
    assert measured.pss_bytes > 0


@needs_servers
def test_a_system_that_has_died_is_started_again(stage: Stage) -> None:
    first = stage.get("nginx")
    os.kill(first.pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while first.alive:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = stage.get("nginx")
    assert second.pid != first.pid
    assert second.alive
    assert not first.directory.exists()
    assert check(HIT, second, expected(HIT, stage)) == {}


@needs_servers
def test_no_round_begins_after_the_deadline_and_what_was_measured_stays(stage: Stage) -> None:
    outcome = compare(HIT, stage, ("nginx",), 3, 1, time.monotonic())
    assert (outcome.rounds, dict(outcome.failures)) == ((), {})


def test_judged_are_the_systems_that_floors_are_about() -> None:
    judged = {name: sorted(scenario.judged) for name, scenario in BY_NAME.items()}
    assert judged["hit_1k"] == ["haproxy", "nginx", "sidecache"]
    assert judged["miss_latency"] == ["nginx", "origin", "sidecache"]
    assert judged["hit_limited"] == ["sidecache", "sidecache-limited"]
    assert judged["post_1k"] == []


@needs_servers
def test_a_system_that_no_floor_is_about_sits_rounds_out(stage: Stage) -> None:
    rounds = compare(BY_NAME["hit_16k"], stage, ("nginx", "haproxy"), 2, 1, time.monotonic() + 30).rounds
    assert [sorted(samples) for samples in rounds] == [["haproxy", "nginx"], ["nginx"]]


@needs_servers
def test_misses_that_should_be_hits_are_no_measurement(stage: Stage) -> None:
    miss = replace(BY_NAME["miss_1k"], origin="none")
    with pytest.raises(ReportError, match=r"\d+ of \d+ requests reached the origin"):
        sample(miss, stage.get("nginx"), stage.origin.port, {}, 1, "once")


@needs_servers
def test_hits_that_should_be_misses_are_no_measurement(stage: Stage) -> None:
    hit = replace(HIT, origin="all")
    with pytest.raises(ReportError, match="reached the origin"):
        sample(hit, stage.get("nginx"), stage.origin.port, {}, 1, "once")


@needs_servers
def test_another_body_of_the_same_length_is_refused(stage: Stage) -> None:
    with pytest.raises(ReportError, match="another body"):
        check(HIT, stage.get("nginx"), b"y" * 1024)


@needs_servers
def test_an_entity_tag_is_sent_back(stage: Stage) -> None:
    headers = check(BY_NAME["not_modified"], stage.get("nginx"), b"")
    assert headers["If-None-Match"].strip('"')


@needs_servers
def test_new_keys_are_other_keys_in_each_run(stage: Stage) -> None:
    running, keys = stage.get("nginx"), BY_NAME["new_keys"]
    for run in ("one", "two"):
        before = origin_requests(stage.origin.port)
        requests = load(keys, running, {}, 1, run).requests
        assert origin_requests(stage.origin.port) - before - 1 >= requests


@needs_servers
def test_a_run_goes_on_with_the_keys_that_the_last_one_did_not_reach(stage: Stage) -> None:
    many = replace(BY_NAME["l2_lmdb"], arguments=("/hit/1k/reach/", "1000000", "{sent}"))
    running, sent = stage.get("nginx"), 0
    for _ in range(2):
        before = origin_requests(stage.origin.port)
        requests = load(many, running, {}, 1, "warm", sent).requests
        sent += requests
        # Those under way when the first one stopped may have been asked for already.
        assert origin_requests(stage.origin.port) - before - 1 >= requests - many.connections


@needs_servers
def test_idle_connections_are_open_together(stage: Stage) -> None:
    running = stage.get("nginx")
    with idle_connections(running.port, "/hit/1k/i", 50):
        opened = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in tree(running.pid))
        assert opened >= 50


def test_a_process_is_counted_with_its_children() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 20
            while len(tree(process.pid)) < 2 or cpu_seconds(process.pid) < 0.2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert pss_bytes(process.pid) > 1 << 20
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_files_count_by_what_they_occupy(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one").write_bytes(b"x" * 100_000)
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    assert 100_000 <= disk_bytes(tmp_path) < 1 << 20


def test_a_server_that_never_answers_is_given_up() -> None:
    released = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            released.wait(30)

        @override
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Silent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        running = Running("silent", os.getpid(), server.server_port, 0, Path())
        failures: dict[str, str] = {}
        with noted(failures, "silent"):
            check(HIT, running, b"")
        assert "timed out" in failures["silent"]
    finally:
        released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@needs_servers
def test_a_run_that_takes_too_long_ends_and_writes_what_it_has(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests.compare.run", "--scenario", "hit_1k", "--system", "nginx"]
    command += ["--seconds", "30", "--limit-seconds", "3", "--store", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    page = (tmp_path / "docs" / "compare.md").read_text()
    assert "did not end within 3 s" in page
    assert re.search(r"FAILED: the run: did not end", done.stderr)


def test_of_a_version_the_number_is_told_and_of_a_program_that_is_missing_the_reason() -> None:
    assert version(["bash", "--version"])[0].isdigit()
    assert "no-such-program is not installed" in version(["no-such-program", "-v"])
