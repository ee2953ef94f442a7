"""LMDB files that are full, broken, foreign or out of reach: the sidecar goes on without them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import lmdb
import pytest

from proxy.storage.breaker import TierState
from proxy.storage.invalidation_log import PurgeScope
from proxy.storage.lmdb import LmdbStore
from tests.support.clock import FakeClock
from tests.support.records import entry, key, same, until
from tests.support.stores import Backends, RedisServers, backends

MIB = 2**20


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Backends]:
    async with backends(FakeClock(), RedisServers(), tmp_path) as made:
        yield made


def path(made: Backends) -> Path:
    return made.directory / "cache.mdb"


@pytest.mark.parametrize("sizes", [[1000], [200_000], [2_000_000], [10, 5000, 300_000, 1_500_000], [100, 700_000]])
async def test_a_full_file_makes_room_and_never_grows_beyond_its_limit(made: Backends, sizes: list[int]) -> None:
    store = await made.lmdb(max_bytes=16 * MIB)
    written = 0
    number = 0
    while written < 48 * MIB:
        batch = {}
        for _ in range(32):
            body = os.urandom(sizes[number % len(sizes)])
            batch[key(f"/{number}")] = entry(f"/{number}", body)
            written += len(body) + 500
            number += 1
        assert await store.write(batch)
    assert store.breaker.closed
    assert store.health().last_error is None
    assert store.evictions > 0
    assert path(made).stat().st_size <= 16 * MIB
    assert await store.get(key(f"/{number - 1}")) is not None
    assert await store.get(key("/0")) is None


async def test_a_reader_that_never_ends_does_not_stop_writes(made: Backends) -> None:
    store = await made.lmdb(max_bytes=16 * MIB)
    assert store.file is not None
    with store.file.env.begin():
        for number in range(40):
            await store.write({key(f"/{number}"): entry(f"/{number}", os.urandom(MIB))})
    for number in range(40):
        await store.write({key(f"/{number}"): entry(f"/{number}", os.urandom(MIB))})
    await until(lambda: store.breaker.closed)
    await store.put(key(), entry())
    assert await store.get(key()) is not None


@pytest.mark.parametrize("content", [b"x", b"no LMDB file " * 5000, b"\0" * 65536])
async def test_a_file_of_something_else_is_left_alone(made: Backends, content: bytes) -> None:
    path(made).write_bytes(content)
    store = await made.lmdb()
    health = store.health()
    assert health.state is TierState.DOWN
    assert health.last_error is not None
    assert str(path(made)) in health.last_error
    assert await store.get(key()) is None
    assert not await store.write({key(): entry()})
    assert path(made).read_bytes() == content


async def test_an_lmdb_file_of_another_program_is_left_alone(made: Backends) -> None:
    with lmdb.open(str(path(made)), subdir=False) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"value")
    store = await made.lmdb()
    assert "another program" in (store.health().last_error or "")
    await store.close()
    with lmdb.open(str(path(made)), subdir=False) as env, env.begin() as txn:
        assert txn.get(b"theirs") == b"value"


async def test_a_file_of_another_version_is_emptied(made: Backends) -> None:
    store = await made.lmdb()
    await store.put(key(), entry())
    assert store.file is not None
    with store.file.env.begin(write=True) as txn:
        txn.put(b"format", b"sidecache lmdb 0, records 0", db=store.file.meta)
    await store.close()
    again = await made.lmdb()
    assert again.health().state is TierState.UP
    assert await again.get(key()) is None


async def test_records_that_were_changed_on_disk_are_misses(made: Backends) -> None:
    store = await made.lmdb()
    await store.put(key(), entry(body=b"0123456789" * 1000))
    await store.put(key("/b"), entry("/b"))
    assert store.file is not None
    with store.file.env.begin(write=True) as txn:
        value = txn.get(key().digest(), db=store.file.records)
        assert value is not None
        txn.put(key().digest(), value[:-1] + b"!", db=store.file.records)
        txn.put(key("/b").digest(), b"short", db=store.file.records)
    assert await store.get(key()) is None
    assert await store.get(key("/b")) is None
    assert store.stats()["undecodable"] == 2
    await store.put(key("/b"), entry("/b"))
    assert same(await store.get(key("/b")), entry("/b"))


async def test_a_directory_that_cannot_be_made_leaves_the_sidecar_without_l2(made: Backends) -> None:
    (made.directory / "file").write_bytes(b"")
    store = LmdbStore(
        made.directory / "file" / "cache.mdb",
        made.clock,
        made.tasks,
        made.metrics,
        (await made.lmdb()).breaker,
        max_bytes=16 * MIB,
        max_object_bytes=MIB,
        probe_seconds=60,
    )
    await store.start()
    assert store.file is None
    tiered = await made.tiered(store, await made.lmdb_log(store))
    tiered.put(key(), entry())
    assert (await tiered.get(key())) is not None
    assert not (await tiered.log.append(PurgeScope.URL, "http://example.test/a")).shared
    assert (await tiered.get(key())) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_read_only_directory_leaves_the_sidecar_without_l2(made: Backends) -> None:
    made.directory.chmod(0o500)
    try:
        store = await made.lmdb()
        assert store.health().state is TierState.DOWN
    finally:
        made.directory.chmod(0o700)


async def test_a_file_that_can_be_used_later_is_used_later(made: Backends) -> None:
    path(made).write_bytes(b"in the way")
    store = await made.lmdb(probe_seconds=0.02)
    tiered = await made.tiered(store, await made.lmdb_log(store))
    assert not (await tiered.log.append(PurgeScope.TAG, "t")).shared
    path(made).unlink()
    await until(lambda: store.breaker.closed and tiered.log.stats()["pending"] == 0)
    seen = tiered.log.last_seen  # it grows when the log reads its own purge back
    tiered.put(key(), entry(purge_id=seen))
    await tiered.flush()
    assert same(await store.get(key()), entry(purge_id=seen))


WRITER = """
import asyncio, sys
from pathlib import Path
from proxy.clock import SystemClock
from proxy.metrics.registry import Registry
from proxy.storage.breaker import Breaker
from proxy.storage.invalidation_log import PurgeScope
from proxy.storage.lmdb import LmdbStore
from proxy.storage.lmdb_log import LmdbLog
from proxy.tasks import Tasks
from tests.support.clock import FakeClock
from tests.support.records import entry, key

async def main():
    clock, tasks = FakeClock(), Tasks()
    store = LmdbStore(Path(sys.argv[1]), clock, tasks, Registry(), Breaker("lmdb", clock, max_failures=3),
                      max_bytes=64 * 2**20, max_object_bytes=2**20, probe_seconds=1)
    await store.start()
    log = LmdbLog(lambda: store.file, clock, tasks, timeout_seconds=5)
    await log.start()
    await log.append(PurgeScope.TAG, "from the other process")
    number = 0
    while True:
        await store.write({key(f"/{number}"): entry(f"/{number}", b"x" * 3000)})
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


async def test_a_worker_killed_while_it_writes_costs_nothing_that_was_written(made: Backends) -> None:
    store = await made.lmdb()
    log = await made.lmdb_log(store)
    words = [sys.executable, "-c", WRITER, str(path(made))]
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    last = -1
    while last < 50:
        last = int(await process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert log.stats()["purges"] == 1 or log.refresh() is None
    assert log.newest_match("", entry("/x", tags=("from the other process",))) is not None
    for number in range(last + 1):
        assert await store.get(key(f"/{number}")) is not None
    await store.put(key("/after"), entry("/after"))
    assert await store.get(key("/after")) is not None
    await store.close()
    again = await made.lmdb()
    assert await again.get(key("/0")) is not None
