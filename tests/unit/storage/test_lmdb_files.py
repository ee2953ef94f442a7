import asyncio
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import lmdb
import pytest

from proxy.storage import lmdb_file
from proxy.storage.invalidation_log import Purge, PurgeScope
from proxy.storage.lmdb_file import LmdbFile
from proxy.storage.second_tier import TierFailedError
from tests.support.clock import FakeClock
from tests.support.records import entry, key
from tests.support.stores import Backends, RedisServers, backends

MIB = 2**20


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Backends]:
    async with backends(FakeClock(), RedisServers(), tmp_path) as made:
        yield made


async def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = LmdbFile(tmp_path / "new" / "cache.mdb", 16 * MIB)
    assert file.path.stat().st_mode & 0o077 == 0
    assert file.path.parent.stat().st_mode & 0o077 == 0
    await file.close()
    await file.close()


async def test_a_closed_file_takes_no_work(tmp_path: Path) -> None:
    file = LmdbFile(tmp_path / "cache.mdb", 16 * MIB)
    await file.close()
    with pytest.raises(TierFailedError, match="closed"):
        await file.write(lambda: None)


async def test_closing_does_not_wait_for_ever_for_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_file, "CLOSE_SECONDS", 0.01)
    file = LmdbFile(tmp_path / "cache.mdb", 16 * MIB)
    stuck = threading.Event()
    writing = asyncio.get_running_loop().create_task(file.write(stuck.wait))
    await asyncio.sleep(0)
    await file.close()
    stuck.set()
    assert await writing
    file._writer.shutdown()
    file.env.close()


async def test_a_file_above_its_limit_is_used_within_it(made: Backends) -> None:
    store = await made.lmdb(max_bytes=64 * MIB)
    for number in range(40):
        await store.put(key(f"/{number}"), entry(f"/{number}", b"x" * MIB))
    await store.close()
    small = await made.lmdb(max_bytes=16 * MIB)
    assert await small.get(key("/39")) is not None
    await small.put(key("/new"), entry("/new"))
    stats = small.stats()
    assert isinstance(stats["bytes"], int)
    assert stats["bytes"] <= 16 * MIB
    assert await small.get(key("/new")) is not None


async def test_a_purge_that_cannot_be_read_voids_everything_older(made: Backends) -> None:
    store = await made.lmdb()
    log = await made.lmdb_log(store)
    await log.append(PurgeScope.TAG, "t")
    heard: list[Purge | None] = []
    log.subscribe(heard.append)
    assert store.file is not None
    with store.file.env.begin(write=True) as txn:
        txn.put(struct.pack(">Q", log.last_seen + 1), b"of a later version", db=store.file.purges)
    log.refresh()
    assert heard == [None]
    assert log.newest_match("", entry(purge_id=log.last_seen - 1)) is not None


async def test_a_log_that_was_trimmed_while_nobody_looked_costs_everything_local(made: Backends) -> None:
    store = await made.lmdb()
    here = await made.lmdb_log(store, max_purges=3)
    there = await made.lmdb_log(store, max_purges=3, started=False)
    heard: list[Purge | None] = []
    there.subscribe(heard.append)
    await here.append(PurgeScope.TAG, "seen")
    there.refresh()
    for number in range(6):
        await here.append(PurgeScope.TAG, str(number))
    there.refresh()
    assert heard[0] is not None
    assert heard[1] is None
    assert there.last_seen == here.last_seen


async def test_a_log_whose_file_fails_waits(made: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await made.lmdb()
    log = await made.lmdb_log(store, started=False)
    file = store.file
    assert file is not None

    class Broken:
        def begin(self, **_: object) -> None:
            raise lmdb.CorruptedError("scripted")

    real = file.env
    monkeypatch.setattr(file, "env", Broken())
    log.refresh()
    assert not log.ready
    assert await store.get(key()) is None
    assert store.counters.errors.value == 1
    assert not await store.write({key(): entry()})
    monkeypatch.setattr(file, "env", real)
    log.refresh()
    assert log.ready
