"""What an L2 is to the tiers: a `Store` that says how it is, and whose trouble stays its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeAlias

from proxy.clock import Clock
from proxy.metrics.registry import Registry
from proxy.storage.base import CacheKey, Record
from proxy.storage.breaker import Breaker, TierHealth

Batch: TypeAlias = Mapping[CacheKey, Record | None]
"""What is to stand under each key from now on; None: nothing."""


class TierFailedError(Exception):
    """A call to a tier failed; the text says how. Raised within `proxy.storage` alone."""


class TierCounters:
    """How often what happened in one tier, as metrics labelled with its name."""

    __slots__ = ("dropped", "errors", "hits", "latency", "misses", "skipped", "timeouts", "undecodable", "writes")

    def __init__(self, metrics: Registry, tier: str) -> None:
        self.hits = metrics.counter("sidecache_store_hits", "Records found", ("tier",)).labels(tier)
        self.misses = metrics.counter("sidecache_store_misses", "Records not found", ("tier",)).labels(tier)
        self.errors = metrics.counter("sidecache_store_errors", "Calls that failed", ("tier",)).labels(tier)
        self.timeouts = metrics.counter("sidecache_store_timeouts", "Calls that took too long", ("tier",)).labels(tier)
        self.skipped = metrics.counter(
            "sidecache_store_skipped", "Calls not made because the tier is out of the path", ("tier",)
        ).labels(tier)
        self.undecodable = metrics.counter(
            "sidecache_store_undecodable", "Records found that could not be read", ("tier",)
        ).labels(tier)
        self.writes = metrics.counter("sidecache_store_writes", "Records written or deleted", ("tier",)).labels(tier)
        self.dropped = metrics.counter(
            "sidecache_store_dropped_writes", "Records not written: too large, or no room to wait", ("tier",)
        ).labels(tier)
        self.latency = metrics.histogram("sidecache_store_read_seconds", "Time a read took", ("tier",)).labels(tier)

    def as_dict(self) -> dict[str, object]:
        """Plain numbers for the admin port."""
        return {
            "hits": int(self.hits.value),
            "misses": int(self.misses.value),
            "errors": int(self.errors.value),
            "timeouts": int(self.timeouts.value),
            "skipped": int(self.skipped.value),
            "undecodable": int(self.undecodable.value),
            "writes": int(self.writes.value),
            "dropped_writes": int(self.dropped.value),
        }


class SecondTier(ABC):
    """An L2. A call that fails, or takes longer than its budget, is told to the breaker and is a miss to the caller.

    Attributes:
        name: for labels and stats.
        breaker: asked before each call.
        counters: what happened.
    """

    def __init__(self, name: str, clock: Clock, metrics: Registry, breaker: Breaker) -> None:
        self.name = name
        self.breaker = breaker
        self.counters = TierCounters(metrics, name)
        self._clock = clock

    @abstractmethod
    async def start(self) -> None:
        """Open what the tier needs. A tier that cannot be opened now is down, and is no error."""

    @abstractmethod
    async def close(self) -> None:
        """See `Store.close`."""

    @abstractmethod
    async def get(self, key: CacheKey) -> Record | None:
        """See `Store.get`."""

    @abstractmethod
    async def write(self, batch: Batch) -> bool:
        """Bring about `batch`; whether that was done."""

    async def put(self, key: CacheKey, record: Record) -> None:
        """See `Store.put`."""
        await self.write({key: record})

    async def delete(self, key: CacheKey) -> None:
        """See `Store.delete`."""
        await self.write({key: None})

    def health(self) -> TierHealth:
        """Whether the tier is in the path, since when, and its last error."""
        return self.breaker.health()

    def stats(self) -> dict[str, object]:
        """What the admin port shows; values that orjson can write."""
        return self.counters.as_dict()
