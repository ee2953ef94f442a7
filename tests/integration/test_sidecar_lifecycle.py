"""The process: how it starts, reloads, drains and ends."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.support.ports import free_port
from tests.support.sidecar import SidecarProcess, eventually, sidecar, toml


class SlowOrigin:
    """An origin whose `/slow` answers when it is let."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/slow":
            self.reached.set()
            await self.gate.wait()
        return web.Response(
            text="answer", headers={"Cache-Control": "max-age=60" if request.path == "/c" else "no-store"}
        )


@pytest.fixture
async def origin() -> AsyncIterator[SlowOrigin]:
    slow = SlowOrigin()
    runner = web.ServerRunner(web.Server(slow.handle))  # type: ignore[arg-type] # a BaseRequest has all that is used
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    slow.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield slow
    slow.gate.set()
    await runner.cleanup()


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def test_it_serves_and_ends_with_0_on_sigterm(origin: SlowOrigin, tmp_path: Path) -> None:
    async with sidecar(origin.url, tmp_path) as running:
        assert await get(running.url + "/") == (200, "answer")
        assert (await running.admin("GET", "/ready"))[0] == 200
        running.signal(signal.SIGTERM)
        assert await running.wait() == 0
        assert [line["event"] for line in running.log_lines][-1] == "stopped"
        assert not running.stderr


async def test_sigterm_lets_requests_in_flight_finish_and_takes_no_new_ones(origin: SlowOrigin, tmp_path: Path) -> None:
    async with sidecar(origin.url, tmp_path) as running:
        slow = asyncio.ensure_future(get(running.url + "/slow"))
        await asyncio.wait_for(origin.reached.wait(), 10)
        running.signal(signal.SIGTERM)
        await eventually(lambda: bool(running.events("draining")))
        status, document = await running.admin("GET", "/ready")
        assert status == 503
        assert "shutting down" in str(document)
        with pytest.raises(aiohttp.ClientConnectionError):
            await get(running.url + "/")
        origin.gate.set()
        assert await slow == (200, "answer")
        assert await running.wait() == 0


async def test_draining_has_a_limit(origin: SlowOrigin, tmp_path: Path) -> None:
    async with sidecar(origin.url, tmp_path, {"server": {"drain_timeout_seconds": 0.2}}) as running:
        slow = asyncio.ensure_future(get(running.url + "/slow"))
        await asyncio.wait_for(origin.reached.wait(), 10)
        running.signal(signal.SIGTERM)
        assert await running.wait() == 0
        with pytest.raises(aiohttp.ClientError):
            await slow


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(origin: SlowOrigin, tmp_path: Path, number: signal.Signals) -> None:
    async with sidecar(origin.url, tmp_path) as running:
        slow = asyncio.ensure_future(get(running.url + "/slow"))
        await asyncio.wait_for(origin.reached.wait(), 10)
        running.signal(number)
        await eventually(lambda: bool(running.events("draining")))
        running.signal(number)
        assert await running.wait(5) == 128 + number
        with pytest.raises(aiohttp.ClientError):
            await slow


def rewrite(running: SidecarProcess, origin: SlowOrigin, tmp_path: Path, **tables: object) -> None:
    running.config.write_text(toml(tables, origin.url, running.port, running.admin_port, tmp_path))


@pytest.mark.parametrize("by", ["SIGHUP", "POST"])
async def test_a_good_configuration_takes_effect_and_requests_in_flight_survive(
    origin: SlowOrigin, tmp_path: Path, by: str
) -> None:
    async with sidecar(origin.url, tmp_path) as running:
        slow = asyncio.ensure_future(get(running.url + "/slow"))
        await asyncio.wait_for(origin.reached.wait(), 10)
        await get(running.url + "/c")
        rewrite(running, origin, tmp_path, routes=[{"name": "all", "match": {"path": "/*"}}])
        if by == "SIGHUP":
            running.signal(signal.SIGHUP)
            await eventually(lambda: bool(running.events("configuration reloaded")))
        else:
            status, report = await running.admin("POST", "/admin/config/reload")
            assert (status, report["changed"], report["restart_needed"]) == (200, ["routes"], [])
        origin.gate.set()
        assert await slow == (200, "answer")
        await get(running.url + "/c")
        await eventually(lambda: len(running.events("request")) == 3)
        assert running.events("request")[-1]["route"] == "all"
        assert running.events("request")[-1]["cache"] == "hit", "the cache outlives a reload"


@pytest.mark.parametrize("by", ["SIGHUP", "POST"])
async def test_a_bad_configuration_is_refused_whole_and_the_old_one_stays(
    origin: SlowOrigin, tmp_path: Path, by: str
) -> None:
    async with sidecar(origin.url, tmp_path) as running:
        rewrite(
            running,
            origin,
            tmp_path,
            plugins={"cache": {"ttl_secs": 1}},
            routes=[{"name": "all", "match": {"path": "x"}}],
        )
        if by == "SIGHUP":
            running.signal(signal.SIGHUP)
            await eventually(lambda: bool(running.events("configuration refused, the old one stays")))
            (event,) = running.events("configuration refused, the old one stays")
            told = str(event["mistakes"])
        else:
            status, document = await running.admin("POST", "/admin/config/reload")
            assert status == 422
            told = str(document)
        assert "plugins.cache.ttl_secs" in told
        assert "routes[0].match.path" in told
        assert await get(running.url + "/") == (200, "answer")


async def test_settings_that_are_tables_are_good_settings(origin: SlowOrigin, tmp_path: Path) -> None:
    tables = {"plugins": {"cache": {"unkeyed_fields": {"X-Odd": "drop"}}}, "routes": [{"name": "all"}]}
    async with sidecar(origin.url, tmp_path, tables) as running:
        assert (await get(running.url + "/"))[0] == 200


async def test_what_needs_a_restart_is_said(origin: SlowOrigin, tmp_path: Path) -> None:
    async with sidecar(origin.url, tmp_path) as running:
        rewrite(running, origin, tmp_path, server={"listen": "127.0.0.1:1", "max_fields": 64})
        _, report = await running.admin("POST", "/admin/config/reload")
        assert report["restart_needed"] == ["server"]
        assert (await get(running.url + "/"))[0] == 200


async def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
        cwd=Path(__file__).parents[2],
    )
    out, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


async def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, errors = await run(
            "run",
            SIDECACHE_UPSTREAM__URL="http://127.0.0.1:1",
            SIDECACHE_SERVER__LISTEN=f"127.0.0.1:{taken.getsockname()[1]}",
            SIDECACHE_ADMIN__LISTEN=f"127.0.0.1:{free_port()}",
            SIDECACHE_CACHE__L2="none",
        )
    assert code == 1
    assert "in use" in errors
    assert "Traceback" not in errors


async def test_a_bad_configuration_ends_the_start_with_every_mistake(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[server]\nlisten = "x"\n[upstream]\nurl = "ftp://x"\n')
    for command in ("run", "check"):
        code, _, errors = await run(command, "--config", str(path))
        assert code == 2
        assert "server.listen" in errors
        assert "upstream.url" in errors
        assert "Traceback" not in errors


async def test_check_says_that_a_good_one_is_good() -> None:
    code, out, _ = await run("check", "--config", "config.toml")
    assert code == 0
    assert "good" in out


async def test_the_schema_is_json() -> None:
    code, out, _ = await run("config-schema")
    assert code == 0
    assert out.startswith("{")


async def test_version() -> None:
    assert (await run("version"))[1].startswith("sidecache ")
