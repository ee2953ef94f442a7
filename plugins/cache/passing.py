"""Requests that go past the cache to the upstream (`proxy.pipeline.passage`): on which terms, and what becomes of them.

Three ways lead past it. A route without a cache; a key whose response was lately not to be stored; and a key for which
nothing is stored, whose response is stored when it is here. The last one is *filling*: the request announces a flight
as any miss does, so others wait for it, and what it brings is admitted by the pattern of a response like it
(`policy.admission.admit_alike`). Whatever else comes, the pipeline takes over together with the flight.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Final, final

from plugins.cache.account import Account
from plugins.cache.fetch import Fetcher
from plugins.cache.filling import Filled, Filling
from plugins.cache.landing import FlightKey, Kept, Landed, Place, Withdrawn
from proxy.clock import Clock
from proxy.http.message import Request, Response
from proxy.http.names import AUTHORIZATION
from proxy.pipeline.exchange import CacheReport, CacheResult, Exchange, Tail
from proxy.pipeline.passage import OwnValues, PassagePart, Ticket, Transcript
from proxy.pipeline.replay import SERVER_MADE, Tally
from proxy.policy.admission import Pattern
from proxy.policy.keys import KeyRules, keys_for_targets
from proxy.policy.reasons import Reason
from proxy.storage.base import CacheKey, Entry, resource_key
from proxy.storage.packed import unpack, url_within
from proxy.storage.tiered import TieredStore
from proxy.upstream.collapse import Flight
from proxy.values import IdentityEnum


class Way(IdentityEnum):
    """How a request goes past the cache."""

    WITHOUT = "the route has no cache"
    UNCACHEABLE = "the key's response was lately not to be stored"
    FILLING = "nothing is stored under the key"


@final
class _Unseen:
    """A `Ticket` of a request that the cache has nothing to do with."""

    __slots__ = ("outlives_client", "way")

    def __init__(self, way: Way) -> None:
        self.way: Hashable = way
        self.outlives_client = False

    def keep(self, pattern: object, own: OwnValues, body: bytes) -> Sequence[str] | None:
        """See `Ticket.keep`: there is nothing to keep."""
        del pattern, own, body
        return ()

    def give_back(self) -> None:
        """See `Ticket.give_back`."""

    def go_on(self, transcript: Transcript) -> None:
        """See `Ticket.go_on`: nobody wants the response."""
        transcript.drop()


_WITHDRAWN: Final = Withdrawn()
_WITHOUT: Final = _Unseen(Way.WITHOUT)
_UNCACHEABLE: Final = _Unseen(Way.UNCACHEABLE)


@final
class FillTicket:
    """A `Ticket` of a request that fills the cache.

    Attributes:
        key: of the flight.
        flight: that it has announced; None: somebody else has it.
    """

    __slots__ = ("_began", "_gate", "_target", "flight", "key", "outlives_client", "place", "way")

    def __init__(self, gate: "Gate", place: CacheKey, key: FlightKey, target: str, flight: Flight[Landed]) -> None:
        self._gate = gate
        self._target = target
        self._began = gate.clock.wall()
        self.place = place
        self.key = key
        self.flight: Flight[Landed] | None = flight
        self.way: Hashable = Way.FILLING
        self.outlives_client = True

    def keep(self, pattern: object, own: OwnValues, body: bytes) -> Sequence[str] | None:
        """See `Ticket.keep`: the response is stored, and those who wait for it have it."""
        flight, gate = self.flight, self._gate
        assert flight is not None and isinstance(pattern, Filled)
        if len(body) > gate.max_object_bytes:
            return None
        now, since = gate.clock.wall(), flight.since
        primary, target = self.place.primary, self._target
        made = Filling(primary, gate.where(primary, target), target, since, self._began, now)
        kept = pattern.packed(made, own, body)
        if kept is None:
            return None
        packed, fresh_until = kept
        gate.store.put_packed(self.place, packed, since)
        self.flight = None  # until here the pipeline could still go on with it
        gate.fetcher.failing.discard(self.key)
        gate.fetcher.flights.withdraw(self.key, flight)
        flight.land(_kept(unpack(packed, primary)) if flight.is_awaited else _WITHDRAWN)
        return pattern.made(fresh_until - now)

    def take_flight(self) -> Flight[Landed] | None:
        """The flight, for who goes on with it."""
        flight, self.flight = self.flight, None
        return flight

    def go_on(self, transcript: Transcript) -> None:
        """See `Ticket.go_on`: the flight outlives the client that caused it."""
        flight = self.take_flight()
        if flight is None:
            transcript.drop()
        else:
            self._gate.fly(flight, self.key, self.place, self._target, transcript)

    def give_back(self) -> None:
        """See `Ticket.give_back`."""
        flight = self.take_flight()
        if flight is not None:
            self._gate.fetcher.flights.withdraw(self.key, flight)
            flight.land(_WITHDRAWN)


def _kept(entry: Entry) -> Kept:
    stored = entry.stored
    response = Response(stored.status, stored.headers, entry.body, stored.reason_phrase)
    return Kept(response, stored, entry, None, (), "", stored.status)


@final
class Gate:
    """Which of the requests that are like one, but for their targets, go past the cache: `PassageTerms`.

    Args:
        request: the one.
        way: that it went.
        pattern: of the responses that fill the cache, if that was so.
        beyond: see `Exchange`.
    """

    __slots__ = (
        "_authorized", "_before", "_beyond", "_primary", "_request", "_where", "clock", "fetcher", "made",
        "max_object_bytes", "pattern", "store", "way",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        way: Way,
        pattern: Filled | None,
        *,
        made: Sequence[str],
        fetcher: Fetcher,
        store: TieredStore,
        clock: Clock,
        rules: KeyRules,
        max_object_bytes: int,
        beyond: tuple[Exchange, Tail] | None = None,
    ) -> None:
        self._request = request
        self._beyond = beyond
        self._authorized = AUTHORIZATION in request.headers
        self._before = f"{request.scheme}://{request.host}"
        self.way: Hashable = way
        self.pattern = pattern
        self.made = made
        self.fetcher = fetcher
        self.store = store
        self.clock = clock
        self._primary = keys_for_targets(request, rules)
        self._where = self._primary("").find(self._before) if rules.plain else None
        self.max_object_bytes = max_object_bytes

    def where(self, primary: str, target: str) -> str | int:
        """Where the URI of `target` is, see `PackedEntry.url`."""
        return self._where or url_within(primary, self._before + target)

    def fly(self, flight: Flight[Landed], key: FlightKey, place: CacheKey, target: str, transcript: Transcript) -> None:
        """Let an announced flight depart that no client waits for."""
        assert self._beyond is not None
        alike, tail = self._beyond
        request = replace(self._request, target=target)
        exchange = Exchange(request, alike.route, transcript.request_id, transcript.began, tail=tail)
        exchange.transcript = transcript
        _, voyage = self.fetcher.set_out(key, exchange, Place(place), announced=flight)
        voyage.claim(taken=False)

    def enter(self, target: str) -> Ticket | None:
        """See `PassageTerms.enter`."""
        if self.way is Way.WITHOUT:
            return _WITHOUT
        place = resource_key(self._primary(target))
        key = place, self._authorized
        now, fetcher, store = self.clock.monotonic(), self.fetcher, self.store
        if store.l1.holds(place):
            return None
        if fetcher.uncacheable.holds(key, now):
            return _UNCACHEABLE if store.l2 is None or fetcher.nowhere.holds(key, now) else None
        if self.way is not Way.FILLING or not store.has_nothing_beyond(place):
            return None
        flight = fetcher.flights.announce(key, store.log.last_seen)
        return None if flight is None else FillTicket(self, place, key, target, flight)


class CachePassages:
    """What the cache has to say of requests that go past it.

    Args:
        rules: of the keys.
        show: makes the Cache-Status field; None: there is none.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        store: TieredStore,
        clock: Clock,
        account: Account,
        rules: KeyRules,
        show: Callable[[CacheReport], str] | None,
        *,
        max_object_bytes: int,
    ) -> None:
        self._fetcher = fetcher
        self._store = store
        self._clock = clock
        self._account = account
        self._rules = rules
        self._show = show
        self._max_object_bytes = max_object_bytes
        self._told_by_head = SERVER_MADE.isdisjoint(rules.fields)
        self._parts: dict[tuple[str, CacheResult, Reason | None], PassagePart] = {}

    def without(self, request: Request) -> Gate:
        """The terms of requests on a route without a cache."""
        return self._gate(request, Way.WITHOUT)

    def uncacheable(self, request: Request, place: Place) -> Gate | None:
        """The terms of requests that go to the origin side by side; None: the cache has to see them."""
        if place.entry is not None or place.marker is not None or not self._told_by_head:
            return None
        return self._gate(request, Way.UNCACHEABLE)

    def filling(
        self, exchange: Exchange, place: Place, pattern: Pattern | None, entry: Entry, report: CacheReport
    ) -> Gate | None:
        """The terms of requests like one whose response has just been stored as `entry`; None: as above."""
        if pattern is None or place.entry is not None or place.marker is not None or not self._told_by_head:
            return None
        filled = Filled(pattern, entry, report, self._show)
        assert exchange.beyond is not None
        sent, tail = exchange.beyond
        return self._gate(exchange.request, Way.FILLING, filled, (sent.outline(), tail))

    def _gate(
        self,
        request: Request,
        way: Way,
        pattern: Filled | None = None,
        beyond: tuple[Exchange, Tail] | None = None,
    ) -> Gate:
        return Gate(
            request,
            way,
            pattern,
            made=("Cache-Status",) if way is Way.FILLING and self._show is not None else (),
            fetcher=self._fetcher,
            store=self._store,
            clock=self._clock,
            rules=self._rules,
            max_object_bytes=self._max_object_bytes,
            beyond=beyond,
        )

    def part(self, route: str, report: CacheReport) -> PassagePart:
        """What is to be done about each of them, on this route and reported so."""
        key = route, report.result, report.reason
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = PassagePart(tally=self._tally(route, report), any_target=True)
        return part

    def _tally(self, route: str, report: CacheReport) -> Tally:
        def tally(durations: Sequence[float], bytes_sent: int) -> None:
            self._account.record(route, report, bytes_sent, len(durations))

        return tally


def own_flight(transcript: Transcript | None, key: FlightKey) -> Flight[Landed] | None:
    """The flight for `key` that a request announced before the pipeline took it over."""
    ticket = transcript.ticket if transcript is not None else None
    return ticket.take_flight() if isinstance(ticket, FillTicket) and ticket.key == key else None
