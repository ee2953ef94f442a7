"""Several workers when processes die, hang, or cannot start."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web

from tests.support.origin import Origin, origin
from tests.support.ports import free_port
from tests.support.raw_client import RawClient, request
from tests.support.redis_server import RedisServer
from tests.support.sidecar import SidecarProcess, eventually, sidecar, toml

NO_L2: dict[str, Any] = {"workers": 2, "cache": {"l2": "none"}}
DEADLINE_SECONDS = 20
ORPHAN_SECONDS = 3.0  # it takes some milliseconds where nothing else runs


@pytest.fixture
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        one.text("/", "ok", Cache_Control="max-age=60")
        yield one


async def ask(running: SidecarProcess, target: str = "/") -> int:
    async with await RawClient.connect(running.address) as client:
        return (await client.ask(request(target))).status


async def workers(running: SidecarProcess) -> dict[str, dict[str, Any]]:
    _, health = await running.admin("GET", "/health/detailed")
    return {worker["worker"]: worker for worker in health["workers"]}


async def pid_of(running: SidecarProcess, worker: str) -> int:
    pid: int = (await workers(running))[worker]["pid"]
    return pid


def family(running: SidecarProcess) -> list[psutil.Process]:
    """The supervisor, the process that forks, and the workers."""
    supervisor = psutil.Process(running.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(map(_lives, processes))


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_killed_worker_is_replaced_while_the_other_serves(app: Origin, tmp_path: Path) -> None:
    async with sidecar(app.url, tmp_path, NO_L2) as running:
        first = await pid_of(running, "1")
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: bool(running.events("worker died")))
        assert [await ask(running) for _ in range(10)] == [200] * 10
        await eventually(lambda: len(running.events("worker ready")) == 3)
        replaced = (await workers(running))["1"]
        assert replaced["pid"] not in {first, None}
        assert (replaced["restarts"], replaced["last_exit"], replaced["state"]) == (1, -signal.SIGKILL, "ready")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not [line for line in running.events("request") if line["worker"] == "1"]:
                assert await ask(running) == 200
        _, text = await running.admin("GET", "/metrics")
        assert 'sidecache_worker_restarts_total{worker="1"} 1.0' in text
        assert 'sidecache_worker_restarts_total{worker="2"} 0.0' in text


async def test_a_purge_says_which_worker_did_not_acknowledge_it(app: Origin, tmp_path: Path) -> None:
    async with sidecar(app.url, tmp_path, NO_L2) as running:
        for worker in ("1", "2"):
            with stopped(await pid_of(running, worker)):
                status, problem = await running.admin("POST", "/admin/cache/invalidate", {"all": True})
                assert (status, problem["workers"]) == (504, [worker])
                assert worker in problem["detail"]
                status, ready = await running.admin("GET", "/ready")
                assert status == 200
                assert {one["worker"]: one["state"] for one in ready["workers"]}[worker] == "silent"
                _, text = await running.admin("GET", "/metrics")
                assert f'sidecache_worker_up{{worker="{worker}"}} 0.0' in text
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (await running.admin("POST", "/admin/cache/invalidate", {"all": True}))[0] != 200:
                    pass


async def test_a_worker_that_was_stuck_applies_the_purge_when_it_goes_on(app: Origin, tmp_path: Path) -> None:
    async def verdict() -> str:
        _, explanation = await running.admin("GET", "/admin/cache/explain?url=http://example.com/&worker=2")
        return str(explanation["verdict"])

    async with sidecar(app.url, tmp_path, NO_L2) as running:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await verdict() != "hit":
                assert await ask(running) == 200
        with stopped(await pid_of(running, "2")):
            assert (await running.admin("POST", "/admin/cache/invalidate", {"all": True}))[0] == 504
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await verdict() != "miss":
                pass


async def test_a_reload_that_a_worker_does_not_answer_changes_nothing(app: Origin, tmp_path: Path) -> None:
    async with sidecar(app.url, tmp_path, NO_L2) as running:
        _, before = await running.admin("GET", "/admin/config")
        changed = {**NO_L2, "log": {"level": "debug"}}
        running.config.write_text(toml(changed, app.url, running.port, running.admin_port, tmp_path))
        with stopped(await pid_of(running, "2")):
            status, problem = await running.admin("POST", "/admin/config/reload")
            assert (status, problem["workers"]) == (504, ["2"])
        assert (await running.admin("GET", "/admin/config"))[1] == before
        assert (await running.admin("POST", "/admin/config/reload"))[0] == 200


async def test_nothing_is_left_when_the_supervisor_is_killed(app: Origin, tmp_path: Path) -> None:
    async with sidecar(app.url, tmp_path, NO_L2) as running:
        processes = family(running)
        assert len(processes) == 4
        directory = Path(next(Path(one).parent for one in _unix_sockets(processes)))
        running.process.kill()
        await eventually(lambda: gone(processes), ORPHAN_SECONDS)
        await eventually(lambda: not directory.exists(), ORPHAN_SECONDS)
        # The last thread of a process closes its sockets, and may outlive the first by a moment.
        await eventually(lambda: _free(running.port), ORPHAN_SECONDS)
        await running.wait()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _unix_sockets(processes: list[psutil.Process]) -> list[str]:
    paths = [one.laddr for process in processes for one in process.net_connections("unix") if one.laddr]
    return [path for path in paths if path.endswith(".sock")]


async def test_the_loss_of_the_process_that_forks_drains_and_fails(app: Origin, tmp_path: Path) -> None:
    async with sidecar(app.url, tmp_path, NO_L2) as running:
        processes = family(running)
        nursery = psutil.Process(running.pid).children()[0]
        nursery.kill()
        assert await running.wait() == 1
        assert gone(processes)
        assert running.events("stopped")


async def test_a_second_signal_ends_everything_at_once(app: Origin, tmp_path: Path) -> None:
    reached = asyncio.Event()

    async def hang(_: web.BaseRequest) -> web.StreamResponse:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    app.on("/hang", hang)
    async with sidecar(app.url, tmp_path, NO_L2) as running, await RawClient.connect(running.address) as client:
        processes = family(running)
        await client.send(request("/hang"))
        await reached.wait()
        running.signal(signal.SIGTERM)
        await eventually(lambda: len(running.events("draining")) == 3)
        assert running.process.returncode is None
        running.signal(signal.SIGTERM)
        assert await running.wait() == 128 + signal.SIGTERM
        await eventually(lambda: gone(processes), ORPHAN_SECONDS)


async def test_requests_in_flight_are_finished_though_everybody_gets_the_signal(app: Origin, tmp_path: Path) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        reached.set()
        await go_on.wait()
        return web.Response(text="done")

    app.on("/slow", slow)
    async with sidecar(app.url, tmp_path, NO_L2) as running, await RawClient.connect(running.address) as client:
        await client.send(request("/slow"))
        await reached.wait()
        for process in family(running):  # as a terminal and a service manager do
            process.send_signal(signal.SIGINT)
            if process.pid != running.pid:
                process.send_signal(signal.SIGTERM)
        await eventually(lambda: len(running.events("draining")) == 3)
        go_on.set()
        assert (await client.response()).body == b"done"
        assert await running.wait() == 0


async def test_a_replaced_worker_starts_from_what_is_in_use_and_not_from_a_broken_file(
    app: Origin, tmp_path: Path
) -> None:
    async with sidecar(app.url, tmp_path, NO_L2) as running:
        changed = {**NO_L2, "plugins": {"cache": {"ttl_seconds": 77.0}}}
        running.config.write_text(toml(changed, app.url, running.port, running.admin_port, tmp_path))
        running.signal(signal.SIGHUP)
        await eventually(lambda: bool(running.events("configuration reloaded")))
        running.config.write_text("nonsense")
        running.signal(signal.SIGHUP)
        await eventually(lambda: bool(running.events("configuration refused, the old one stays")))
        for worker in ("1", "2"):
            count = len(running.events("worker ready"))
            os.kill(await pid_of(running, worker), signal.SIGKILL)
            await eventually(lambda count=count: len(running.events("worker ready")) > count)  # type: ignore[misc]  # a lambda that binds its loop variable
        for worker in ("1", "2"):
            _, health = await running.admin("GET", "/health/detailed")
            assert {one["state"] for one in health["workers"]} == {"ready"}, worker
        _, config = await running.admin("GET", "/admin/config")
        assert config["plugins"]["cache"]["ttl_seconds"] == 77.0


async def _end_of(config: Path, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "run", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode is not None
    return process.returncode, errors.decode()


async def test_workers_that_cannot_start_end_the_supervisor(app: Origin, tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(
        "from plugins.latency import Latency\n"
        "class Stubborn(Latency):\n"
        "    name = 'stubborn'\n"
        "    async def start(self):\n"
        "        raise RuntimeError('I will not')\n"
    )
    config = tmp_path / "config.toml"
    tables = {**NO_L2, "pipeline": {"order": ["stubborn:Stubborn"]}}
    config.write_text(toml(tables, app.url, free_port(), free_port(), tmp_path))
    code, errors = await _end_of(config, PYTHONPATH=f"{tmp_path}:{Path.cwd()}")
    assert code == 1
    assert "I will not" in errors


@pytest.mark.parametrize("table", ["server", "admin"])
async def test_an_address_in_use_ends_the_supervisor_before_there_are_workers(
    app: Origin, tmp_path: Path, table: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = tmp_path / "config.toml"
        tables = {**NO_L2, table: {"listen": f"127.0.0.1:{taken.getsockname()[1]}"}}
        config.write_text(toml(tables, app.url, free_port(), free_port(), tmp_path))
        code, errors = await _end_of(config)
    assert (code, "cannot listen" in errors) == (1, True)


async def test_two_supervisors_do_not_share_a_port_by_mistake(app: Origin, tmp_path: Path) -> None:
    async with sidecar(app.url, tmp_path, NO_L2) as running:
        config = tmp_path / "second.toml"
        config.write_text(toml(NO_L2, app.url, running.port, free_port(), tmp_path))
        code, errors = await _end_of(config)
        assert (code, "in use" in errors) == (1, True)


class Versions:
    """An origin's resource whose version grows, and clients that see that it never goes back after a purge."""

    def __init__(self, app: Origin) -> None:
        self.current = 1
        self.purged = 1
        self.answers = 0
        app.on("/versioned", self._answer)

    async def _answer(self, _: web.BaseRequest) -> web.StreamResponse:
        version = self.current
        await asyncio.sleep(0.002)  # so that purges overtake answers
        return web.Response(text=str(version), headers={"Cache-Control": "max-age=600"})

    async def watch(self, running: SidecarProcess, over: asyncio.Event) -> None:
        while not over.is_set():
            try:
                async with await RawClient.connect(running.address) as client:
                    for _ in range(20):
                        least = self.purged
                        answer = await client.ask(request("/versioned"))
                        assert answer.status == 200
                        assert int(answer.body) >= least, f"version {answer.body!r} after {least} had been purged for"
                        self.answers += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                continue  # the worker was killed: the next connection goes to another

    async def renew(self, running: SidecarProcess) -> int:
        self.current += 1
        status, _ = await running.admin("POST", "/admin/cache/invalidate", {"url": "http://example.com/versioned"})
        if status == 200:
            self.purged = self.current
        return status


@pytest.mark.parametrize("l2", ["none", "lmdb", "redis"])
async def test_no_client_gets_what_was_purged_from_any_worker(app: Origin, tmp_path: Path, l2: str) -> None:
    redis = await asyncio.to_thread(RedisServer) if l2 == "redis" else None
    cache = {"redis_url": redis.url} if redis is not None else {"l2": l2}
    tables = {"workers": 2, "cache": cache, "pipeline": {"order": ["cache"]}}
    try:
        async with sidecar(app.url, tmp_path, tables) as running:
            versions, over = Versions(app), asyncio.Event()
            clients = [asyncio.ensure_future(versions.watch(running, over)) for _ in range(8)]
            for round_ in range(60):
                assert await versions.renew(running) == 200
                if round_ == 30:
                    os.kill(await pid_of(running, "1"), signal.SIGKILL)
                before = versions.answers
                await eventually(lambda before=before: versions.answers > before + 5)  # type: ignore[misc]  # a lambda that binds its loop variable
            await eventually(lambda: len(running.events("worker ready")) == 3)
            over.set()
            await asyncio.gather(*clients)
            assert await versions.renew(running) == 200
            async with aiohttp.ClientSession() as session, session.get(f"{running.url}/versioned") as answer:
                assert answer.status == 200
    finally:
        if redis is not None:
            redis.close()
