"""A Redis that is not there, dies, or hangs: no client of a whole sidecar sees it, nor waits for it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.origin import Origin, origin
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.sidecar import SidecarProcess, sidecar

SLOWEST_SECONDS = 4.0
"""For one answer, whatever Redis does: far above the 50 ms that a call may take and what a busy machine adds, and below
the 5 s after which anything else in a sidecar would give up."""

REQUESTS = 100


@pytest.fixture
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        for number in range(REQUESTS):
            one.text(f"/{number}", f"body {number}", Cache_Control="max-age=600")
        yield one


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def browse(running: SidecarProcess, *, cold: bool = False) -> None:
    """Ask for every resource, some at a time; all answers are right and quick."""
    loop = asyncio.get_running_loop()
    mark = f"?{loop.time()}" if cold else ""
    places = asyncio.Semaphore(10)

    async with aiohttp.ClientSession() as session:

        async def one(number: int) -> float:
            async with places:
                began = loop.time()
                async with session.get(f"{running.url}/{number}{mark}") as answer:
                    assert (answer.status, await answer.text()) == (200, f"body {number}")
                return loop.time() - began

        seconds = await asyncio.gather(*[one(number) for number in range(REQUESTS)])
    assert max(seconds) < SLOWEST_SECONDS


async def until_state(running: SidecarProcess, *wanted: str) -> None:
    """Wait until the admin port says that Redis is in a state."""
    async with asyncio.timeout(20):
        while (await running.admin("GET", "/health/dependencies"))[1]["l2"]["state"] not in wanted:
            await asyncio.sleep(0.02)


async def test_a_redis_that_is_down_at_the_start_is_used_once_it_is_there(app: Origin, tmp_path: Path) -> None:
    port = free_port()
    tables = {"cache": {"redis_url": f"redis://127.0.0.1:{port}", "l2_breaker_retry_seconds": 0.1}}
    async with sidecar(app.url, tmp_path, tables) as running:
        await browse(running)
        await browse(running)
        assert sum(app.count.values()) == REQUESTS, "the memory works without it"
        await until_state(running, "down", "open")
        assert (await running.admin("GET", "/ready"))[0] == 200
        with RedisServer(port=port) as redis:
            async with asyncio.timeout(20):
                while not int(redis.command("dbsize")):
                    await browse(running, cold=True)
            await until_state(running, "up", "closed", "ok")


async def test_a_redis_that_is_killed_in_the_middle_costs_no_request(
    app: Origin, tmp_path: Path, redis: RedisServer
) -> None:
    tables = {"cache": {"redis_url": redis.url, "l2_breaker_retry_seconds": 0.1}}
    async with sidecar(app.url, tmp_path, tables) as running:
        await browse(running)
        busy = asyncio.gather(*[browse(running, cold=True) for _ in range(5)])
        redis.kill()
        await busy
        await browse(running, cold=True)
        redis.start()
        async with asyncio.timeout(20):
            while int(redis.command("dbsize")) < REQUESTS // 2:
                await browse(running, cold=True)


async def test_a_redis_that_hangs_costs_no_request(app: Origin, tmp_path: Path, redis: RedisServer) -> None:
    tables = {"cache": {"redis_url": redis.url, "l2_breaker_retry_seconds": 0.2}}
    async with sidecar(app.url, tmp_path, tables) as running:
        await browse(running)
        with redis.frozen():
            for _ in range(5):
                await browse(running, cold=True)
            await until_state(running, "down", "open")
            await browse(running)
            async with asyncio.timeout(5):
                status, document = await running.admin("POST", "/admin/cache/invalidate", {"all": True})
            assert (status, document["status"]) == (200, "pending")
            async with (
                asyncio.timeout(SLOWEST_SECONDS),
                aiohttp.ClientSession() as session,
                session.post(running.url + "/0") as answer,
            ):
                assert answer.status == 200
            before = sum(app.count.values())
            await browse(running)
            assert sum(app.count.values()) == before + REQUESTS, "a purge holds here at once"
        await until_state(running, "up", "closed", "ok")
        await browse(running, cold=True)


async def test_a_redis_that_hangs_holds_up_neither_start_nor_end(
    app: Origin, tmp_path: Path, redis: RedisServer
) -> None:
    loop = asyncio.get_running_loop()
    with redis.frozen():
        async with sidecar(app.url, tmp_path, {"cache": {"redis_url": redis.url}}) as running:
            await browse(running)
            began = loop.time()
            running.process.terminate()
            assert await running.wait() == 0
            assert loop.time() - began < 5
