"""Servers of a Redis that has several: one dies, and the others take over or go on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from proxy.storage.invalidation_log import PurgeScope
from proxy.storage.redis import RedisStore
from tests.support.clock import FakeClock
from tests.support.records import entry, key, until
from tests.support.redis_server import redis_cluster, redis_sentinel
from tests.support.stores import Backends, RedisServers, backends

PATIENCE_SECONDS: Final = 120


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Backends]:
    async with backends(FakeClock(), RedisServers(), tmp_path) as made:
        yield made


async def comes_to_work(store: RedisStore) -> None:
    """Wait until what is put can be read.

    On a busy machine sentinels take a server that is only slow for one that is down, and elect for longer than one
    round, so the wait is long. It is over as soon as the store works.
    """
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            await store.put(key(), entry())
            if await store.get(key()) is not None:
                return
            await asyncio.sleep(0.05)


@pytest.mark.timeout(4 * PATIENCE_SECONDS)
async def test_a_replica_that_sentinel_promotes_takes_over(made: Backends) -> None:
    with redis_sentinel() as trio:
        store = await made.redis(trio.url)
        log = await made.redis_log(trio.url, timeout_seconds=1.0)
        await comes_to_work(store)
        trio.master.kill()
        await store.get(key())
        appended = await log.append(PurgeScope.TAG, "t")
        assert log.newest_match("", entry(tags=("t",))) == appended.purge
        await until(lambda: log.pending == 0, seconds=PATIENCE_SECONDS)
        await comes_to_work(store)
        assert "role:master" in trio.replica.command("info", "replication")
        await made.close()


@pytest.mark.timeout(2 * PATIENCE_SECONDS)
@pytest.mark.parametrize("answers", [0, 1, 2])
async def test_of_the_sentinels_one_that_answers_is_enough(answers: int, made: Backends) -> None:
    with redis_sentinel() as trio, contextlib.ExitStack() as frozen:
        killed, silent = (sentinel for place, sentinel in enumerate(trio.sentinels) if place != answers)
        killed.kill()
        frozen.enter_context(silent.frozen())
        store = await made.redis(trio.url, timeout_seconds=2.0)
        await comes_to_work(store)
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
