"""What outlives a process, and what several share: the second tier behind whole sidecars."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.origin import Origin, origin
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.sidecar import SidecarProcess, sidecar

HOST = {"Host": "api.example"}


@pytest.fixture
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        yield one


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def get(running: SidecarProcess, path: str) -> tuple[bytes, str]:
    """Body and `Cache-Status`."""
    async with aiohttp.ClientSession() as session, session.get(running.url + path, headers=HOST) as answer:
        assert answer.status == 200
        return await answer.read(), answer.headers["Cache-Status"]


async def until_stored(running: SidecarProcess, count: int) -> None:
    """Wait until the second tier has got so many records."""
    async with asyncio.timeout(10):
        while True:
            _, text = await running.admin("GET", "/metrics")
            lines = [line for line in text.splitlines() if line.startswith("sidecache_store_writes_total")]
            if sum(float(line.rpartition(" ")[2]) for line in lines) >= count:
                return
            await asyncio.sleep(0.01)


async def until(found: Any, wanted: Any) -> None:
    """Wait until what the coroutine function `found` returns is `wanted`."""
    async with asyncio.timeout(10):
        while await found() != wanted:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_the_cache_file_outlives_the_process_however_it_ends(
    app: Origin, tmp_path: Path, end: signal.Signals
) -> None:
    for name in ("/kept", "/purged"):
        app.text(name, f"body of {name}", Cache_Control="max-age=600", ETag='"1"')
    port = free_port()
    async with sidecar(app.url, tmp_path, port=port) as first:
        for name in ("/kept", "/purged"):
            await get(first, name)
        await until_stored(first, 2)
        status, document = await first.admin("POST", "/admin/cache/invalidate", {"url": "http://api.example/purged"})
        assert (status, document["status"]) == (200, "shared")
        first.signal(end)
        assert await first.wait() == (0 if end is signal.SIGTERM else -signal.SIGKILL)
    async with sidecar(app.url, tmp_path, port=port) as second:
        body, told = await get(second, "/kept")
        assert body == b"body of /kept"
        assert "hit" in told
        _, told = await get(second, "/purged")
        assert "hit" not in told, "a purge outlives the process, too"
        _, stats = await second.admin("GET", "/admin/cache/stats")
        assert stats["tiers"]["l2"]["hits"] >= 1
    assert app.count == {"/kept": 1, "/purged": 2}
    assert {line["target"]: line.get("cache_tier") for line in second.events("request")}["/kept"] == "l2"


async def test_two_sidecars_share_a_redis_and_their_purges(app: Origin, tmp_path: Path, redis: RedisServer) -> None:
    tables = {"cache": {"redis_url": redis.url, "redis_prefix": "two", "lmdb_path": str(tmp_path / "unused")}}
    async with sidecar(app.url, tmp_path, tables) as one, sidecar(app.url, tmp_path, tables) as two:
        app.text("/shared", "1", Cache_Control="max-age=600", Cache_Tag="a")
        await get(one, "/shared")
        await until_stored(one, 1)
        assert "hit" in (await get(two, "/shared"))[1]
        assert app.count["/shared"] == 1
        for number, order in enumerate([{"tag": "a"}, {"url": "http://api.example/shared"}, {"all": True}], 2):
            app.text("/shared", str(number), Cache_Control="max-age=600", Cache_Tag="a")
            assert (await get(two, "/shared"))[0] == b"%d" % (number - 1), "from the memory of the other"
            status, document = await one.admin("POST", "/admin/cache/invalidate", order)
            assert (status, document["status"]) == (200, "shared")

            async def other() -> bytes:
                return (await get(two, "/shared"))[0]

            await until(other, b"%d" % number)
            assert (await get(one, "/shared"))[0] == b"%d" % number


async def test_a_write_through_one_sidecar_voids_what_the_other_holds(
    app: Origin, tmp_path: Path, redis: RedisServer
) -> None:
    tables = {"cache": {"redis_url": redis.url, "redis_prefix": "write"}}
    async with sidecar(app.url, tmp_path, tables) as one, sidecar(app.url, tmp_path, tables) as two:
        app.text("/item", "old", Cache_Control="max-age=600")
        for running in (one, two):
            await get(running, "/item")
        app.text("/item", "new", Cache_Control="max-age=600")
        async with aiohttp.ClientSession() as session, session.post(one.url + "/item", headers=HOST) as answer:
            assert answer.status == 200
        assert (await get(one, "/item"))[0] == b"new"

        async def other() -> bytes:
            return (await get(two, "/item"))[0]

        await until(other, b"new")
