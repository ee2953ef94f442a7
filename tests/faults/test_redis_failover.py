"""Servers of a Redis that has several: one dies, and the others take over or go on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.storage.invalidation_log import PurgeScope
from proxy.storage.redis import RedisStore
from tests.support.clock import FakeClock
from tests.support.records import entry, key, until
from tests.support.redis_server import redis_cluster, redis_sentinel
from tests.support.stores import Backends, RedisServers, backends


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Backends]:
    async with backends(FakeClock(), RedisServers(), tmp_path) as made:
        yield made


async def works(store: RedisStore) -> bool:
    await store.put(key(), entry())
    return await store.get(key()) is not None


async def test_a_replica_that_sentinel_promotes_takes_over(made: Backends) -> None:
    with redis_sentinel() as trio:
        store = await made.redis(trio.url)
        log = await made.redis_log(trio.url, timeout_seconds=1.0)
        assert await works(store)
        trio.master.kill()
        assert await store.get(key()) is None or store.breaker.closed
        appended = await log.append(PurgeScope.TAG, "t")
        assert log.newest_match("", entry(tags=("t",))) == appended.purge
        await until(lambda: "role:master" in trio.replica.command("info", "replication"), seconds=30)
        await until(lambda: log.pending == 0, seconds=30)
        await until(lambda: store.breaker.closed, seconds=30)
        assert await works(store)
        await made.close()


async def test_a_cluster_that_lost_a_node_is_no_error(made: Backends) -> None:
    with redis_cluster() as nodes:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        store = await made.redis(url, timeout_seconds=1.0)
        for number in range(30):
            await store.put(key(f"/{number}"), entry(f"/{number}"))
        nodes[1].kill()
        for number in range(30):
            await store.get(key(f"/{number}"))
        health = store.health()
        assert health.last_error is not None
        assert store.stats()["errors"] != 0 or store.stats()["timeouts"] != 0
        await made.close()
