import asyncio
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.metrics.registry import Registry
from proxy.storage.lmdb import LmdbStore
from proxy.storage.lmdb_log import LmdbLog
from proxy.storage.memory_log import MemoryLog
from proxy.storage.opening import open_store
from proxy.storage.redis import RedisStore
from proxy.storage.redis_log import RedisLog
from proxy.storage.settings import CacheTiers
from proxy.tasks import Tasks
from tests.support.records import entry, key


@pytest.mark.parametrize(
    ("table", "tier", "log"),
    [
        ({"l2": "none"}, type(None), MemoryLog),
        ({}, LmdbStore, LmdbLog),
        ({"redis_url": "redis://cache.invalid"}, RedisStore, RedisLog),
        ({"redis_url": "redis+cluster://cache.invalid"}, RedisStore, RedisLog),
    ],
)
async def test_settings_choose_the_tiers_and_open_nothing(
    table: dict[str, str], tier: type, log: type, tmp_path: Path
) -> None:
    path = tmp_path / "cache.mdb"
    settings = CacheTiers.model_validate({"lmdb_path": path, "l1_max_object_share": 0.5, **table})
    tasks = Tasks()
    store = open_store(settings, SystemClock(), tasks, Registry())
    assert type(store.l2) is tier
    assert type(store.log) is log
    assert store.l1.max_object_bytes == settings.l1_max_bytes // 2
    assert not path.exists()
    assert len(tasks) == 0
    await store.close()


async def test_the_default_outlives_a_restart(tmp_path: Path) -> None:
    settings = CacheTiers(lmdb_path=tmp_path / "new" / "cache.mdb")
    record = entry(discard_at=SystemClock().wall() + 1000)
    for restarted in (False, True):
        tasks = Tasks()
        store = open_store(settings, SystemClock(), tasks, Registry())
        await store.start()
        found = await store.get(key())
        assert (found is not None) == restarted
        store.put(key(), record)
        async with asyncio.timeout(10):
            await store.close()
        await tasks.close()
