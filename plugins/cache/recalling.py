"""Hits in the second tier that are answered past the pipeline (`proxy.pipeline.recall`): on which terms.

A hit for a request without directives, conditions or ranges depends on the target and on the stored response alone. The
first tier comes before: what it has, or should have by now, the pipeline answers.
"""

from collections.abc import Callable
from math import floor
from typing import Final, final

from plugins.cache.replaying import EARLY_REFRESHES, HEEDED_FIELDS
from proxy.clock import Clock
from proxy.http.message import Request
from proxy.pipeline.exchange import CacheReport
from proxy.pipeline.recall import Done, Recalled, Soon
from proxy.policy.freshness import age_at
from proxy.policy.keys import KeyRules, key_for_target
from proxy.storage.base import CacheKey
from proxy.storage.codec import Look
from proxy.storage.second_tier import Later
from proxy.storage.tiered import TieredStore

_TTL_ZERO: Final = ";ttl=0"
_REMEMBERED: Final = 8_192

ENTRY_BYTES: Final = 1_000
"""What L1 counts for a small entry besides its body, roughly."""


class SecondSight:
    """What was asked for lately: a bounded memory of keys."""

    __slots__ = ("_newer", "_older")

    def __init__(self) -> None:
        self._newer: set[int] = set()
        self._older: set[int] = set()

    def seen(self, key: CacheKey) -> bool:
        """Whether `key` was asked about before."""
        digest = hash(key)  # one that is taken for another is only answered by the pipeline once
        if digest in self._newer or digest in self._older:
            return True
        self._newer.add(digest)
        if len(self._newer) >= _REMEMBERED // 2:
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
        is_nowhere: whether L2 need not be asked for a key.
    """

    __slots__ = (
        "_beta",
        "_is_nowhere",
        "_request",
        "_rules",
        "_sight",
        "_status",
        "_store",
        "_wall",
        "first",
        "made",
        "own",
    )

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
        is_nowhere: Callable[[CacheKey], bool],
    ) -> None:
        self._request = request
        self._store = store
        self._wall = clock.wall
        self._rules = rules
        self._beta = beta
        self._sight = sight
        self._is_nowhere = is_nowhere
        self._status: list[str] | None = None
        if show is not None:
            self._status = show(report.with_ttl(0.0)).split(_TTL_ZERO, 1)
        self.made = ("Age",) if show is None else ("Age", "Cache-Status")
        self.own = tuple(name.lower() for name in known.shape.own_names)
        self.first = self._recalled(known, self._wall())

    def find(self, target: str) -> Recalled | Soon | None:
        """See `RecallTerms.find`."""
        key = CacheKey(key_for_target(self._request, target, self._rules))
        if self._is_nowhere(key):
            return None
        found = self._store.look_beyond(key)
        return Soon.SOON if found is Later.LATER else self._judge(key, found)

    def ask(self, target: str, done: Done) -> bool:
        """See `RecallTerms.ask`."""
        key = CacheKey(key_for_target(self._request, target, self._rules))
        return self._store.look_soon(key, lambda look: done(self._judge(key, look)))

    def _judge(self, key: CacheKey, look: Look | None) -> Recalled | None:
        if look is None or (self._store.l1.admits(len(look.body) + ENTRY_BYTES) and self._sight.seen(key)):
            return None
        now = self._wall()
        origin_seconds = max(0.0, look.response_time - look.request_time)
        if look.fresh_until - now <= self._beta * origin_seconds * EARLY_REFRESHES:
            return None
        return self._recalled(look, now)

    def _recalled(self, look: Look, now: float) -> Recalled:
        made = [str(int(age_at(look.initial_age, look.response_time, now)))]
        if self._status is not None:
            before, behind = self._status
            made.append(f"{before};ttl={floor(look.fresh_until - now)}{behind}")
        return Recalled(look.shape, look.values, made, look.body)


def is_plain(request: Request) -> bool:
    """Whether nothing but the target tells which stored response `request` gets, and how."""
    return HEEDED_FIELDS.isdisjoint(map(str.lower, request.headers))
