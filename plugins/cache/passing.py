"""Requests that the cache lets pass unseen (`proxy.pipeline.passage`): under which terms, and how they are counted."""

from collections.abc import Sequence
from typing import final

from plugins.cache.account import Account
from plugins.cache.fetch import Fetcher, FlightKey, Place
from proxy.clock import Clock
from proxy.pipeline.exchange import CacheReport, CacheResult
from proxy.pipeline.passage import PassagePart, PassageTerms
from proxy.pipeline.replay import SERVER_MADE, Tally
from proxy.policy.reasons import Reason
from proxy.storage.tiered import TieredStore


@final
class _Always:
    """A route that has no cache."""

    def hold(self) -> bool:
        """See `PassageTerms.hold`."""
        return True


@final
class _Past:
    """A key for which nothing is stored, and whose response was lately not to be stored."""

    __slots__ = ("_fetcher", "_key", "_monotonic", "_place", "_store")

    def __init__(self, fetcher: Fetcher, store: TieredStore, clock: Clock, key: FlightKey, place: Place) -> None:
        self._fetcher = fetcher
        self._store = store
        self._monotonic = clock.monotonic
        self._key = key
        self._place = place.key

    def hold(self) -> bool:
        """See `PassageTerms.hold`."""
        now, fetcher = self._monotonic(), self._fetcher
        return (
            fetcher.uncacheable.holds(self._key, now)
            and (self._store.l2 is None or fetcher.nowhere.holds(self._key, now))
            and self._store.l1.peek(self._place) is None
        )


class CachePassages:
    """What the cache has to say of such requests.

    Args:
        fields: of the key, lower case.

    Attributes:
        always: the terms of requests that the cache never has to do with.
    """

    def __init__(
        self, fetcher: Fetcher, store: TieredStore, clock: Clock, account: Account, fields: Sequence[str]
    ) -> None:
        self._fetcher = fetcher
        self._store = store
        self._clock = clock
        self._account = account
        self._told_by_head = SERVER_MADE.isdisjoint(fields)
        self._parts: dict[tuple[str, CacheResult, Reason | None], PassagePart] = {}
        self.always = _Always()

    def past(self, key: FlightKey, place: Place) -> PassageTerms | None:
        """The terms of requests for `place`, which go to the origin side by side; None: the cache has to see them."""
        if place.entry is not None or place.marker is not None or not self._told_by_head:
            return None
        return _Past(self._fetcher, self._store, self._clock, key, place)

    def part(self, route: str, report: CacheReport) -> PassagePart:
        """What is to be done about each of them, on this route and reported so."""
        key = route, report.result, report.reason
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = PassagePart(tally=self._tally(route, report))
        return part

    def _tally(self, route: str, report: CacheReport) -> Tally:
        def tally(durations: Sequence[float], bytes_sent: int) -> None:
            self._account.record(route, report, bytes_sent, len(durations))

        return tally
