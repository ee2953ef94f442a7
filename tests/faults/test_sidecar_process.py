"""A whole sidecar under conditions that nobody wishes it: full pipes, crowds, files that cannot be written."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.support.origin import Origin, origin
from tests.support.ports import free_port
from tests.support.raw_client import RawClient, request
from tests.support.sidecar import SidecarProcess, sidecar, toml

IDLE_CONNECTIONS = 1000


@pytest.fixture
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        one.text("/hit", "body", Cache_Control="max-age=600")
        one.text("/pass", "body", Cache_Control="no-store")
        yield one


async def ask(running: SidecarProcess, target: str) -> int:
    async with await RawClient.connect(running.address) as client:
        return (await client.ask(request(target))).status


def _read_until_ready(reading: int) -> None:
    while line := os.read(reading, 65_536):
        if b'"ready"' in line:
            return
    raise AssertionError("the sidecar ended")


@asynccontextmanager
async def unread(app: Origin, tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, int]]:
    """A sidecar whose standard output nobody reads: process, port, and the pipe's reading end."""
    port, admin_port = free_port(), free_port()
    config = tmp_path / "config.toml"
    config.write_text(toml({"cache": {"l2": "none"}}, app.url, port, admin_port, tmp_path))
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "run", "--config", str(config)), stdout=writing
    )
    os.close(writing)
    try:
        await asyncio.to_thread(_read_until_ready, reading)
        yield process, port, reading
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(reading)


async def test_a_log_that_nobody_reads_stalls_no_request_and_no_end(app: Origin, tmp_path: Path) -> None:
    async with unread(app, tmp_path) as (process, port, _), aiohttp.ClientSession() as session:
        for _ in range(3):  # each log line is about 300 bytes, the pipe holds 64 KiB

            async def one() -> None:
                async with session.get(f"http://127.0.0.1:{port}/hit") as answer:
                    assert answer.status == 200

            async with asyncio.timeout(15):
                await asyncio.gather(*[one() for _ in range(500)])
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_a_log_whose_reader_is_gone_stalls_no_request(app: Origin, tmp_path: Path) -> None:
    async with unread(app, tmp_path) as (process, port, reading), aiohttp.ClientSession() as session:
        spare = os.open(os.devnull, os.O_RDONLY)
        os.dup2(spare, reading)
        os.close(spare)
        for _ in range(50):
            async with session.get(f"http://127.0.0.1:{port}/hit") as answer:
                assert answer.status == 200
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_a_thousand_idle_connections_are_in_nobodys_way(app: Origin, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        async with sidecar(app.url, tmp_path, {"cache": {"l2": "none"}}) as running:
            before = running.rss_bytes()
            idle = [await RawClient.connect(running.address) for _ in range(IDLE_CONNECTIONS)]
            for number, client in enumerate(idle):  # some have been used, some hold half a head, some are new
                if number % 3 == 1:
                    await client.ask(request("/hit"))
                elif number % 3 == 2:
                    await client.send(request("/hit")[:-2])
            async with asyncio.timeout(10):
                for _ in range(100):
                    assert await ask(running, "/hit") == 200
                    assert await ask(running, "/pass") == 200
            assert running.rss_bytes() - before < 40_000_000
            for client in idle[2::3]:
                await client.send(b"\r\n")
            for client in idle[2::3]:
                assert (await client.response()).status == 200
            running.signal(signal.SIGTERM)
            assert await running.wait() == 0
            await asyncio.gather(*[client.close() for client in idle])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_half_a_request_is_ended_in_time_and_reaches_no_origin(app: Origin, tmp_path: Path) -> None:
    async def read(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=await request.read())

    app.on("/read", read)
    tables = {"cache": {"l2": "none"}, "server": {"header_timeout_seconds": 0.3, "body_timeout_seconds": 0.3}}
    async with sidecar(app.url, tmp_path, tables) as running:
        async with await RawClient.connect(running.address) as client:
            await client.send(request("/half")[:-2])
            assert (await client.read_rest()).startswith(b"HTTP/1.1 408 ")
        async with await RawClient.connect(running.address) as client:
            await client.send(request("/read", "Content-Length: 10", method="POST") + b"half")
            response = await client.response()
            assert response.status == 408
        assert app.count["/half"] == 0
        assert await ask(running, "/hit") == 200


async def test_a_cache_file_that_cannot_be_written_is_done_without(app: Origin, tmp_path: Path) -> None:
    in_the_way = tmp_path / "a file"
    in_the_way.write_text("no directory")
    tables = {"cache": {"lmdb_path": str(in_the_way / "cache.mdb")}}
    async with sidecar(app.url, tmp_path, tables) as running:
        assert [await ask(running, "/hit") for _ in range(3)] == [200] * 3
        assert app.count["/hit"] == 1, "the memory works without it"
        assert (await running.admin("GET", "/ready"))[0] == 200
        _, health = await running.admin("GET", "/health/dependencies")
        assert (health["status"], health["l2"]["state"]) == ("degraded", "down")
        assert health["l2"]["last_error"]
        assert any(line["level"] in {"warning", "error"} for line in running.log_lines), "and it is told"
        _, done = await running.admin("POST", "/admin/cache/invalidate", {"all": True})
        assert done["purges"][0]["dropped"] >= 1
        assert await ask(running, "/hit") == 200
        assert app.count["/hit"] == 2


async def test_a_cache_file_that_is_damaged_is_done_without_or_made_anew(app: Origin, tmp_path: Path) -> None:
    path = tmp_path / "cache.lmdb"
    path.write_bytes(b"this is no cache file" * 10_000)
    async with sidecar(app.url, tmp_path) as running:
        assert [await ask(running, "/hit") for _ in range(3)] == [200] * 3
        assert app.count["/hit"] == 1


async def test_killed_while_writing_and_started_again_it_serves_whole_bodies_alone(app: Origin, tmp_path: Path) -> None:
    bodies = {f"/{number}": f"{number} " * 20_000 for number in range(60)}
    for path, body in bodies.items():
        app.text(path, body, Cache_Control="max-age=600")
    port = free_port()

    async def fetch(session: aiohttp.ClientSession, url: str) -> str:
        async with session.get(url) as answer:
            return await answer.text()

    for _ in range(3):
        async with sidecar(app.url, tmp_path, port=port) as running, aiohttp.ClientSession() as session:
            visits = [asyncio.ensure_future(fetch(session, running.url + path)) for path in bodies]
            for visit in asyncio.as_completed(visits):
                await visit
                if sum(done.done() for done in visits) >= len(visits) // 2:
                    break
            running.process.kill()
            assert await running.wait() == -signal.SIGKILL
            for path, got in zip(bodies, await asyncio.gather(*visits, return_exceptions=True), strict=True):
                assert got == bodies[path] or isinstance(got, aiohttp.ClientError | ConnectionError)
    async with sidecar(app.url, tmp_path, port=port) as running, aiohttp.ClientSession() as session:
        for path, body in bodies.items():
            async with session.get(running.url + path) as answer:
                assert await answer.text() == body
        _, health = await running.admin("GET", "/health/dependencies")
        assert health["status"] == "ok"
