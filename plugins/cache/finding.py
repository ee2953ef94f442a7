"""Where the stored response for a request is: in memory, or in the second tier."""

from collections.abc import Hashable
from dataclasses import replace

from plugins.cache.fetch import Fetcher
from plugins.cache.landing import Place
from plugins.cache.variants import variant_place
from proxy.clock import Clock
from proxy.http.message import Request
from proxy.http.names import AUTHORIZATION
from proxy.policy import reuse
from proxy.policy.model import Decision, PolicyOptions, Revalidate
from proxy.storage.base import CacheKey, Entry, VaryMarker
from proxy.storage.tiered import TieredStore


def flight_key(request: Request, place: Place) -> tuple[Hashable, ...]:
    """What a fetch for `request` is known by. What one with credentials learns about a key (that its response is
    private, say) holds for such requests alone.
    """
    return place.key, AUTHORIZATION in request.headers


class Finder:
    """Looks in both tiers.

    Args:
        fetcher: knows what is under way, and what need not be looked for.
    """

    def __init__(self, store: TieredStore, fetcher: Fetcher, clock: Clock, options: PolicyOptions) -> None:
        self._store = store
        self._fetcher = fetcher
        self._clock = clock
        self._options = options

    def find_local(self, primary: str, request: Request) -> Place:
        """Where in L1 the stored response for `request` is, whose primary key is `primary`."""
        key = CacheKey(primary)
        record = self._store.get_local(key)
        if isinstance(record, VaryMarker):
            key, marker = variant_place(primary, record, request), record
            record = self._store.get_local(key)
            return Place(key, marker, record, "l1") if isinstance(record, Entry) else Place(key, marker)
        return Place(key) if record is None else Place(key, None, record, "l1")

    def may_be_beyond(self, request: Request, place: Place) -> bool:
        """Whether L2 is to be asked. It had nothing either when the origin said not to store what it gave."""
        if place.entry is not None or self._store.l2 is None:
            return False
        return not self._fetcher.nowhere.holds(flight_key(request, place), self._clock.monotonic())

    async def find_beyond(self, request: Request, place: Place) -> Place:
        """Where in L2 it is, if L1 has no more than `place` says."""
        key, marker = place.key, place.marker
        found = await self._store.get_beyond(key)
        if found is not None and isinstance(found.record, VaryMarker) and marker is None:
            marker = found.record
            key = variant_place(key.primary, marker, request)
            found = await self._store.get(key)
        if found is None or not isinstance(found.record, Entry):
            return Place(key, marker)
        return Place(key, marker, found.record, found.tier)

    async def look_past_l1(self, request: Request, place: Place, decision: Revalidate) -> tuple[Place, Decision]:
        """What L2 has may be newer than what L1 has, if another sidecar refreshed it: that saves asking the origin."""
        if place.entry is None or place.tier != "l1" or self._store.l2 is None:
            return place, decision
        if self._fetcher.flights.find(flight_key(request, place)) is not None:
            return place, decision
        newer, tier = await self._store.get_newer(place.key, place.entry), "l2"
        if newer is None:  # but a flight may have landed meanwhile
            current, tier = self._store.l1.peek(place.key), "l1"
            if not isinstance(current, Entry) or current is place.entry:
                return place, decision
            newer = current
        judged = reuse.decide(request, newer.stored, self._clock.wall(), self._options)
        return replace(place, entry=newer, tier=tier), judged
