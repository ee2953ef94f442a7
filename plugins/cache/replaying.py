"""Under which terms a hit may be given again, as bytes, without asking the cache (`proxy.pipeline.replay`).

A hit from memory for a request without directives stays the same until its freshness ends, but for `Age` and the `ttl`
in Cache-Status; or until the stored response, or the marker that led to it, is removed or replaced.
"""

from collections.abc import Callable, Sequence
from math import floor
from typing import Final

from plugins.cache.account import Account
from proxy.http.message import Request
from proxy.pipeline.exchange import CacheReport, CacheResult
from proxy.pipeline.replay import PASSED_OVER, SERVER_MADE, ReplayPart
from proxy.policy.freshness import current_age
from proxy.policy.reasons import Reason
from proxy.policy.status import StatusByTtl
from proxy.storage.base import CacheKey, Entry, VaryMarker
from proxy.storage.node import Use
from proxy.storage.tiered import TieredStore

_UNSURE: Final = PASSED_OVER | SERVER_MADE
HEEDED_FIELDS: Final = frozenset({
    "authorization", "cache-control", "if-match", "if-modified-since", "if-none-match", "if-range",
    "if-unmodified-since", "pragma", "range",
})  # fmt: skip
"""The request fields that the cache looks at whatever its settings are."""

EARLY_REFRESHES: Final = 20.0
"""XFetch draws from an exponential distribution: so many times its mean before the end, two in 10^9 requests would
refresh. From then on the cache draws for each request itself."""


def may_replay(request: Request, entry: Entry, marker: VaryMarker | None, key_fields: Sequence[str]) -> bool:
    """Whether the head of `request` alone selects `entry`, whoever sends it and when.

    Args:
        marker: that led to `entry`. It may name fields that this one variant does not vary by.
    """
    headers = request.headers
    if "Cache-Control" in headers or "Pragma" in headers:
        return False  # what these demand depends on the age
    selecting = (*entry.stored.vary, *(marker.names if marker is not None else ()), *key_fields)
    return _UNSURE.isdisjoint(selecting)


class HitTerms:
    """The terms of one hit: `ReplayTerms` for who keeps the answer, a `Watcher` for the store.

    Args:
        report: the cache's account of it.
        show: make the Cache-Status field; None: there is none.
        early: seconds before the end of freshness from which it may be refreshed.
    """

    __slots__ = ("__weakref__", "_early", "_entry", "_is_void", "_status", "on_void", "uses")

    def __init__(
        self, entry: Entry, report: CacheReport, show: Callable[[CacheReport], str] | None, early: float
    ) -> None:
        self._entry = entry
        # Made whole at each renewal, the field would take half of its time.
        self._status = None if show is None else StatusByTtl(show(report.with_ttl(0.0)))
        self._early = early
        self._is_void = False
        self.on_void: Callable[[], None] | None = None
        self.uses: list[Use] = []

    def watch(self, store: TieredStore, *keys: CacheKey) -> bool:
        """End when what stands in L1 under one of `keys` does; whether something stands under all of them."""
        for key in keys:
            use = store.watch(key, self)
            if use is None:
                return False
            self.uses.append(use)
        return True

    @property
    def is_void(self) -> bool:
        """See `ReplayTerms.is_void`."""
        return self._is_void

    def void(self) -> None:
        """See `Watcher.void`."""
        self._is_void = True
        if self.on_void is not None:
            self.on_void()

    def keeps(self, body: bytes) -> bool:
        """See `ReplayTerms.keeps`."""
        return body is self._entry.body or any(body is form for form in self._entry.forms.values())

    def fields(self, now: float) -> tuple[Sequence[tuple[str, str]], float] | None:
        """See `ReplayTerms.fields`."""
        stored = self._entry.stored
        ttl = stored.fresh_until - now
        if self._is_void or ttl <= self._early:
            return None
        age = current_age(stored, now)
        lasts = min(1.0 - age % 1.0, ttl - floor(ttl), ttl - self._early)  # 0 at a whole second: it changes behind it
        fields = [("Age", str(max(0, int(age))))]
        if self._status is not None:
            fields.append(("Cache-Status", self._status.at(ttl)))
        return fields, now + lasts


class HitTallies:
    """What the cache does about replays: it counts them. Hits that are alike share a tally: one call counts many."""

    __slots__ = ("_account", "_count_hits", "_parts")

    def __init__(self, account: Account, count_hits: Callable[[int], None]) -> None:
        self._account = account
        self._count_hits = count_hits
        self._parts: dict[tuple[str, CacheResult, Reason | None], ReplayPart] = {}

    def part(self, route: str, report: CacheReport) -> ReplayPart:
        """For an answer on this route that was reported so."""
        key = route, report.result, report.reason
        part = self._parts.get(key)
        if part is None:

            def tally(durations: Sequence[float], bytes_sent: int) -> None:
                self._count_hits(len(durations))
                self._account.record(route, report, bytes_sent, len(durations))

            part = self._parts[key] = ReplayPart(tally=tally)
        return part
