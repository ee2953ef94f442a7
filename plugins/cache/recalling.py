"""Hits in the second tier that are answered past the pipeline (`proxy.pipeline.recall`): on which terms.

A hit for a request without directives, conditions or ranges depends on the target and on the stored response alone. The
first tier comes before: what it has, or should have by now, the pipeline answers.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, final

from plugins.cache.recent import Recent
from plugins.cache.replaying import EARLY_REFRESHES, HEEDED_FIELDS
from proxy.clock import Clock
from proxy.http.message import Request, to_wire
from proxy.pipeline.exchange import CacheReport
from proxy.pipeline.recall import Ask, Done, Recalled
from proxy.policy.freshness import age_at
from proxy.policy.keys import KeyRules, keys_for_targets
from proxy.policy.status import StatusByTtl
from proxy.storage.base import CacheKey, resource_key
from proxy.storage.codec import Look
from proxy.storage.memory import MemoryStore
from proxy.storage.second_tier import LATER
from proxy.storage.tiered import TieredStore

_REMEMBERED: Final = 8_192

ENTRY_BYTES: Final = 1_000
"""What L1 counts for a small entry besides its body, roughly."""


@final
class SecondSight:
    """What was asked for lately: a bounded memory of keys.

    Args:
        l1: of no more keys than it can hold. What comes back after more of them would have been evicted by then, had it
            been there: to bring it in costs a request six times as much as an answer from L2, and drives out another.
    """

    __slots__ = ("_l1", "_newer", "_older")

    def __init__(self, l1: MemoryStore) -> None:
        self._l1 = l1
        self._newer: set[int] = set()
        self._older: set[int] = set()

    def seen(self, key: CacheKey) -> bool:
        """Whether `key` was asked about before."""
        digest = hash(key)  # one that is taken for another is only answered by the pipeline once
        if digest in self._newer or digest in self._older:
            return True
        self._newer.add(digest)
        if len(self._newer) >= min(_REMEMBERED, self._l1.room) // 2:
            self._older, self._newer = self._newer, set()
        return False


@final
class HitRecall:
    """The terms of hits in the second tier: `RecallTerms`.

    Args:
        request, known: of the hit that they are learnt from, and its entry.
        report: the cache's account of it.
        show: make the Cache-Status field; None: there is none.
        beta: see `reuse.refreshes_early`.
        sight: of the keys answered so.
        nowhere: keys for which L2 need not be asked.
    """

    __slots__ = (
        "_early", "_l1", "_monotonic", "_nowhere", "_primary", "_sight", "_status", "_store", "_wall", "first",
        "made", "own",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        known: Look,
        report: CacheReport,
        show: Callable[[CacheReport], str] | None,
        *,
        store: TieredStore,
        clock: Clock,
        rules: KeyRules,
        beta: float,
        sight: SecondSight,
        nowhere: Recent,
    ) -> None:
        self._store = store
        self._l1 = store.l1
        self._wall = clock.wall
        self._monotonic = clock.monotonic
        self._primary = keys_for_targets(request, rules)
        self._early = beta * EARLY_REFRESHES
        self._sight = sight
        self._nowhere = nowhere
        self._status = None if show is None else StatusByTtl(show(report.with_ttl(0.0)))
        self.made = ("Age",) if show is None else ("Age", "Cache-Status")
        self.own = tuple(name.lower() for name in known.shape.own_names)
        self.first = self._recalled(known, self._wall())

    def find(self, target: str) -> Recalled | Ask | None:
        """See `RecallTerms.find`."""
        key = resource_key(self._primary(target))
        if self._nowhere.holds((key, False), self._monotonic()):
            return None
        found = self._store.look_beyond(key)
        return partial(self._ask, key) if found is LATER else self._judge(key, found)

    def _ask(self, key: CacheKey, done: Done) -> bool:
        return self._store.look_soon(key, lambda look: done(self._judge(key, look)))

    def _judge(self, key: CacheKey, look: Look | None) -> Recalled | None:
        if look is None or (self._l1.admits(len(look.body) + ENTRY_BYTES) and self._sight.seen(key)):
            return None
        now = self._wall()
        left = look.fresh_until - now
        if left <= 0 or left <= self._early * (look.response_time - look.request_time):  # which may be negative
            return None
        return self._recalled(look, now)

    def _recalled(self, look: Look, now: float) -> Recalled:
        age = b"%d" % int(age_at(look.initial_age, look.response_time, now))
        if self._status is None:
            return look.shape, (*look.values, age), look.body
        status = to_wire(self._status.at(look.fresh_until - now))
        return look.shape, (*look.values, age, status), look.body


def is_plain(request: Request) -> bool:
    """Whether nothing but the target tells which stored response `request` gets, and how."""
    return HEEDED_FIELDS.isdisjoint(map(str.lower, request.headers))
