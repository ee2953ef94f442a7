"""From `[cache]` to the tiers and their log."""

import importlib

from proxy.clock import Clock
from proxy.metrics.registry import Registry
from proxy.storage.breaker import Breaker
from proxy.storage.invalidation_log import InvalidationLog
from proxy.storage.lmdb import LmdbStore
from proxy.storage.lmdb_log import LmdbLog
from proxy.storage.memory import MemoryStore
from proxy.storage.memory_log import MemoryLog
from proxy.storage.second_tier import SecondTier
from proxy.storage.settings import CacheTiers
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks


def preload(settings: CacheTiers) -> None:
    """Import what only these settings need: processes that are forked then share it.

    The Redis client takes 0.1 s of a processor to import, which a sidecar without Redis does not spend.
    """
    if settings.second_tier == "redis":
        for module in ("proxy.storage.redis", "proxy.storage.redis_log"):
            importlib.import_module(module)


def open_store(settings: CacheTiers, clock: Clock, tasks: Tasks, metrics: Registry) -> TieredStore:
    """The tiers that `settings` describe, with their invalidation log (`.log`). Nothing is opened before `start`.

    `close` the store before `tasks`: what waits to be written is written by a task.
    """
    l1 = MemoryStore(
        settings.l1_max_bytes, clock, max_object_bytes=int(settings.l1_max_bytes * settings.l1_max_object_share)
    )
    l2, log = _second_tier(settings, clock, tasks, metrics)
    return TieredStore(l1, l2, log, clock, tasks, metrics)


def _second_tier(
    settings: CacheTiers, clock: Clock, tasks: Tasks, metrics: Registry
) -> tuple[SecondTier | None, InvalidationLog]:
    kind = settings.second_tier
    timeout_seconds = settings.l2_timeout_ms / 1000
    # Beside the body a record has its header fields and its derived forms.
    max_record_bytes = 2 * settings.max_object_bytes + 64 * 1024
    breaker = Breaker(kind, clock, max_failures=settings.l2_breaker_failures)
    match kind:
        case "none":
            return None, MemoryLog(clock)
        case "lmdb":
            lmdb = LmdbStore(
                settings.lmdb_path,
                clock,
                tasks,
                metrics,
                breaker,
                max_bytes=settings.lmdb_max_bytes,
                max_object_bytes=max_record_bytes,
                probe_seconds=settings.l2_breaker_retry_seconds,
            )
            return lmdb, LmdbLog(lambda: lmdb.file, clock, tasks, timeout_seconds=max(1.0, timeout_seconds))
        case "redis":
            from proxy.storage.redis import RedisStore  # noqa: PLC0415 — see `preload`
            from proxy.storage.redis_log import RedisLog  # noqa: PLC0415

            redis = RedisStore(
                settings.redis_address,
                clock,
                tasks,
                metrics,
                breaker,
                prefix=settings.redis_prefix,
                timeout_seconds=timeout_seconds,
                max_object_bytes=max_record_bytes,
                probe_seconds=settings.l2_breaker_retry_seconds,
            )
            log = RedisLog(
                settings.redis_address,
                clock,
                tasks,
                prefix=settings.redis_prefix,
                timeout_seconds=timeout_seconds,
            )
            return redis, log
