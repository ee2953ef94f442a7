"""L1 and one L2 as one store.

A look-up asks L1, then what still waits to be written to L2, then L2 itself, within its time budget and past its
breaker. A write goes to L1 at once and to L2 behind the request's back. What comes from L2 is held against the
invalidation log when it is read; L1 is purged as the log goes on. No trouble in here is ever a caller's error.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Final

import structlog

from proxy.clock import Clock
from proxy.metrics.registry import Registry
from proxy.policy.invalidation import soften
from proxy.storage.base import CacheKey, Entry, PurgeId, Record, VaryMarker
from proxy.storage.breaker import TierHealth
from proxy.storage.codec import Look
from proxy.storage.invalidation_log import InvalidationLog, Purge, PurgeScope
from proxy.storage.memory import MemoryStore
from proxy.storage.node import Use, Watcher
from proxy.storage.packed import PackedEntry, unpack
from proxy.storage.second_tier import LATER, Later, SecondTier
from proxy.storage.stopping import stop
from proxy.storage.write_behind import WriteBehind
from proxy.tasks import Tasks
from proxy.values import value

MOST_ABSENT: Final = 1_024
SWEEP_SECONDS: Final = 1.0
SWEEP_PARTS: Final = 60
"""Each sweep looks at this part of L1: an expired record is dropped within about a minute."""
SWEEP_PORTION: Final = 32
"""Records looked at without a pause: 1 ms when all of them have to be packed."""
SETTLED_AT_MOST: Final = 2_048
"""New records that a sweep packs: 6 % of a processor when there are as many each second."""
SETTLED_BY_PUT: Final = 2
"""New records packed for each that is put: as long as many come, none waits longer than a turn of the sweep."""

_ALL: Final = PurgeScope.ALL
_log = structlog.get_logger("storage")


class _Unread(Enum):
    GIVEN_UP = "who asked L2 was cancelled"


@value
class Found:
    """A record and the tier it came from: `l1` or `l2`."""

    record: Record
    tier: str


class TieredStore:
    """The cache's storage as the rest of the program sees it.

    Args:
        l1: the memory tier.
        l2: the second tier, or None.
        log: the invalidation log; started and closed here.
        tasks: where background work runs.
    """

    def __init__(
        self,
        l1: MemoryStore,
        l2: SecondTier | None,
        log: InvalidationLog,
        clock: Clock,
        tasks: Tasks,
        metrics: Registry,
    ) -> None:
        self.l1 = l1
        self.l2 = l2
        self.log = log
        self._clock = clock
        self._tasks = tasks
        self._behind = WriteBehind(l2, tasks) if l2 is not None else None
        self._sweeper: asyncio.Task[None] | None = None
        self._reading: dict[CacheKey, asyncio.Future[Record | _Unread | None]] = {}
        self._overtaken: set[CacheKey] = set()
        self._absent: set[CacheKey] = set()  # keys of which L2 has just said that it has nothing
        self._purged = 0
        self._softened = 0
        self._find: Mapping[PurgeScope, Callable[[str], list[CacheKey]]] = {
            PurgeScope.KEY: l1.keys_of_primary,
            PurgeScope.URL: l1.keys_of_url,
            PurgeScope.PREFIX: l1.keys_of_prefix,
            PurgeScope.TAG: l1.keys_of_tag,
        }
        self._voided = metrics.counter("sidecache_store_voided", "Records found void when read", ("tier",)).labels("l2")
        log.subscribe(self._on_purge)
        metrics.gauge("sidecache_store_bytes", "What the records in memory weigh", lambda: l1.bytes)
        metrics.gauge("sidecache_store_max_bytes", "What the records in memory may weigh", lambda: l1.max_bytes)
        metrics.gauge("sidecache_store_records", "Records in memory", lambda: len(l1))

    # Life.

    async def start(self) -> None:
        """Open L2 and the log. One that cannot be opened is left out until it can."""
        if self.l2 is not None:
            await self.l2.start()
        await self.log.start()
        if self._behind is not None:
            self._behind.start()
        self._sweeper = self._tasks.start("store sweep", self._sweep())

    async def close(self) -> None:
        """Write what waits, as far as L2 takes it, and let go of everything. Safe to call twice."""
        await stop(self._sweeper)
        if self._behind is not None:
            await self._behind.close()
        await self.log.close()
        if self.l2 is not None:
            await self.l2.close()
        self.l1.close()

    async def flush(self) -> None:
        """Wait until everything put so far is in L2, or dropped."""
        if self._behind is not None:
            await self._behind.flush()

    # Verbs.

    def get_local(self, key: CacheKey) -> Record | None:
        """The record in L1. Never waits."""
        return self.l1.get(key)

    def watch(self, key: CacheKey, watcher: Watcher) -> Use | None:
        """See `MemoryStore.watch`: of what stands in L1."""
        return self.l1.watch(key, watcher)

    def count_hits(self, count: int) -> None:
        """Records in L1 were used by somebody who watches them."""
        self.l1.hits += count

    async def get(self, key: CacheKey) -> Found | None:
        """The record under `key`, from the first tier that has it. What L2 has is kept in L1 from then on."""
        record = self.l1.get(key)
        return await self.get_beyond(key) if record is None else Found(record, "l1")

    async def get_beyond(self, key: CacheKey) -> Found | None:
        """The same for a `key` that L1 has just been found not to have."""
        if self.l2 is None or self._behind is None:
            return None
        waiting = self._behind.waiting(key)
        if key in self._absent:
            self._absent.discard(key)
            if waiting is None:
                self.l2.counters.misses.value += 1
                return None
        if waiting is not None:
            record = waiting.record
            if isinstance(record, PackedEntry):
                record = unpack(record, key.primary)
            return self._judge(key, record) if record is not None else None
        if not self.log.ready:
            self.l2.counters.skipped.value += 1  # what was purged while this sidecar was away is not known yet
            return None
        found = self.l2.get_at_once(key)
        if isinstance(found, Later):
            found = await self._ask(self.l2, key)
            newer = self.l1.peek(key)
            if newer is not None and newer.discard_at > self._clock.wall():  # put while L2 was asked
                return Found(newer, "l1")
        return None if found is None else self._judge(key, found)

    def look_beyond(self, key: CacheKey) -> Look | Later | None:
        """What L2 has of an entry that L1 does not have, where nothing is to be said against it: no purge, no newer
        state of it. It stays where it is. `LATER`: `look_soon` can tell. None says nothing, `get_beyond` has to.
        """
        if self.l2 is None or not self._is_beyond(key):
            return None
        found = self.l2.look(key)
        return found if found is None or found is LATER else self._sound(key, found)

    def look_soon(self, key: CacheKey, done: Callable[[Look | None], None]) -> bool:
        """The same where it takes a while; whether `done` is going to be called with it, once."""
        return self.l2 is not None and self.l2.look_soon(key, partial(self._looked, key, done))

    def _looked(self, key: CacheKey, done: Callable[[Look | None], None], found: Look | Later | None) -> None:
        if found is None:  # who asks next, and that is at once, need not ask L2 again
            if len(self._absent) >= MOST_ABSENT:
                self._absent.clear()
            self._absent.add(key)
        done(self._sound(key, found) if isinstance(found, Look) and self._is_beyond(key) else None)

    def has_nothing_beyond(self, key: CacheKey) -> bool:
        """Whether it is certain, without waiting, that L2 has nothing under `key`, which L1 does not have."""
        if self.l2 is None:
            return True
        return self._is_beyond(key) and self.l2.get_at_once(key) is None

    def _is_beyond(self, key: CacheKey) -> bool:
        """Whether what L2 has under `key` is the newest that is known here."""
        behind = self._behind
        return behind is not None and not self.l1.holds(key) and behind.waiting(key) is None and self.log.ready

    def _sound(self, key: CacheKey, look: Look) -> Look | None:
        """`look`, if it may be used as it is."""
        if look.discard_at <= self._clock.wall():
            return None
        self.log.refresh_as_of_look()
        return look if self.log.newest_match(key.primary, look) is None else None

    async def get_newer(self, key: CacheKey, held: Entry) -> Entry | None:
        """What L2 has in place of `held`, which L1 has: another sidecar may have refreshed it. Kept in L1 from then on.

        Returns:
            None when L2 has nothing newer.
        """
        if self.l2 is None or self._behind is None or not self.log.ready or self._behind.waiting(key) is not None:
            return None
        record = await self._ask(self.l2, key)
        if not isinstance(record, Entry) or record.stored.response_time <= held.stored.response_time:
            return None
        if self.l1.peek(key) is not held:  # replaced, or purged, while L2 was asked
            return None
        found = self._judge(key, record)
        return found.record if found is not None and isinstance(found.record, Entry) else None

    async def _ask(self, l2: SecondTier, key: CacheKey) -> Record | None:
        """What L2 has under `key`, unless it was written meanwhile: then this answer is an old one. L2 is asked once
        for all who want to know at the same time.
        """
        while (reading := self._reading.get(key)) is not None:
            found = await asyncio.shield(reading)
            if found is not _Unread.GIVEN_UP:
                return found
        reading = self._reading[key] = asyncio.get_running_loop().create_future()
        found = _Unread.GIVEN_UP
        try:
            record = await l2.get(key)
            found = None if key in self._overtaken else record
            return found
        finally:
            del self._reading[key]
            self._overtaken.discard(key)
            reading.set_result(found)

    def _judge(self, key: CacheKey, record: Record) -> Found | None:
        """What the invalidation log leaves of `record`, which is not in L1 yet."""
        if record.discard_at <= self._clock.wall():
            return None
        self.log.refresh()
        purge = self.log.newest_match(key.primary, record)
        if purge is not None:
            self._voided.value += 1
            if not purge.soft:
                self._write(key, None)
                return None
            record = _softened(record, purge)
        self.l1.put(key, record)
        return Found(record, "l2")

    def put(self, key: CacheKey, record: Record) -> None:
        """Keep `record`: in L1 now, in L2 soon. One that a purge has voided since its fetch began is not kept."""
        purge = self.log.newest_match(key.primary, record)
        if purge is not None:
            if not purge.soft:
                return
            record = _softened(record, purge)
        self.l1.put(key, record)
        # Behind this turn's requests. A sweep alone falls behind those that store 2,700 records a second.
        asyncio.get_running_loop().call_soon(self.l1.settle, SETTLED_BY_PUT)
        self._write(key, record)

    def put_packed(self, key: CacheKey, packed: PackedEntry, purge_id: PurgeId) -> None:
        """The same for an entry that is packed already.

        Args:
            purge_id: its own.
        """
        if purge_id < self.log.last_seen:  # what was purged since may be this
            self.put(key, unpack(packed, key.primary))
            return
        self.l1.put_packed(key, packed)
        self._write(key, packed)

    def delete(self, key: CacheKey) -> None:
        """Forget what is under `key`: in L1 now, in L2 soon; a `get` in between does not find it."""
        self.l1.delete(key)
        self._write(key, None)

    def attach_form(self, key: CacheKey, entry: Entry, name: str, data: bytes) -> Entry | None:
        """Keep `data` as the form `name` of `entry`, if what is stored under `key` still has this entry's body.

        Returns:
            The entry that stands in its place now, or None.
        """
        grown = self.l1.attach_form(key, entry, name, data)
        if grown is not None:
            self._write(key, grown)
        return grown

    def _write(self, key: CacheKey, record: Record | PackedEntry | None) -> None:
        if self._behind is not None:
            self._absent.discard(key)
            if key in self._reading:
                self._overtaken.add(key)
            self._behind.add(key, record)

    # Purges.

    def _on_purge(self, purge: Purge | None) -> None:
        if purge is None:
            self._purged += self.l1.clear()
            return
        scope = purge.scope
        if scope is _ALL and not purge.soft:
            self._purged += self.l1.clear()
            return
        keys = self.l1.all_keys() if scope is _ALL else self._find[scope](purge.value)
        if not purge.soft:
            for key in keys:
                self._purged += self.l1.delete(key)
            return
        for key in keys:
            self._softened += 1
            self.l1.update(key, lambda entry: replace(entry, stored=soften(entry.stored, purge.at)))

    # Background.

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.l1.next_turn()
            for _ in range(0, len(self.l1) // SWEEP_PARTS + 1, SWEEP_PORTION):
                self.l1.sweep(SWEEP_PORTION)
                await asyncio.sleep(0)
            for _ in range(0, SETTLED_AT_MOST, SWEEP_PORTION):
                if self.l1.settle(SWEEP_PORTION) < SWEEP_PORTION:
                    break
                await asyncio.sleep(0)

    # Reports.

    def health(self) -> TierHealth | None:
        """How L2 is; None without one."""
        return None if self.l2 is None else self.l2.health()

    def stats(self) -> Mapping[str, object]:
        """What the admin port shows; values that orjson can write."""
        l1 = self.l1
        tiers: dict[str, object] = {
            "l1": {
                "records": len(l1),
                "bytes": l1.bytes,
                "max_bytes": l1.max_bytes,
                "hits": l1.hits,
                "misses": l1.misses,
                "puts": l1.puts,
                "evictions": l1.evictions,
                "expirations": l1.expirations,
                "refusals": l1.refusals,
                "purged": self._purged,
                "softened": self._softened,
            },
            "l2": None,
            "invalidations": self.log.stats(),
        }
        if self.l2 is not None and self._behind is not None:
            health = self.l2.health()
            tiers["l2"] = {
                "kind": self.l2.name,
                "state": health.state.value,
                "since": health.since,
                "last_error": health.last_error,
                "last_error_at": health.last_error_at,
                "last_latency_seconds": health.last_latency_seconds,
                "voided": int(self._voided.value),
                **self.l2.stats(),
                **self._behind.stats(),
            }
        return tiers


def _softened(record: Record, purge: Purge) -> Record:
    # A marker names the fields that select a variant: that does not become stale, the variants do.
    if isinstance(record, VaryMarker):
        return record
    return replace(record, stored=soften(record.stored, purge.at))
