"""The cache: answers from what is stored, fetches and stores what is not, and says why.

Its place divides the pipeline. What stands right of it works once per upstream response, and its work is stored; what
stands left works for each client. The rules are those of `proxy.policy`; here they are put to use.
"""

import asyncio
import random
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import ClassVar, Final

from multidict import istr
from typing_extensions import override

from plugins.cache.account import Account, Asides
from plugins.cache.asking import CLIENT_CONDITIONS, FieldGuard
from plugins.cache.content import read_content
from plugins.cache.explain import Explainer
from plugins.cache.fetch import ERROR_STATUSES, Fetcher
from plugins.cache.finding import Finder, flight_key
from plugins.cache.forms import EntryForms, FormMaker
from plugins.cache.landing import FlightKey, Landed, Passed, Place, Voyage, Withdrawn
from plugins.cache.parts import wanted_part
from plugins.cache.passing import own_flight
from plugins.cache.replaying import HEEDED_FIELDS
from plugins.cache.serving import aged_headers, respond
from plugins.cache.settings import CacheSettings
from plugins.cache.shortcuts import Shortcuts
from plugins.cache.variants import why_missing
from proxy.errors import ProxyError, UpstreamError
from proxy.http.body import close_body
from proxy.http.message import Headers, Request, Response
from proxy.http.names import IF_MATCH, RANGE
from proxy.http.problem import problem
from proxy.pipeline.exchange import CacheReport, CacheResult, Exchange, ExchangeKey, Outcome, Stats
from proxy.pipeline.explanation import Explanation
from proxy.pipeline.passage import PassagePart
from proxy.pipeline.plugin import Plugin, Services
from proxy.pipeline.replay import ReplayPart
from proxy.policy import reuse
from proxy.policy.keys import primary_key
from proxy.policy.model import Decision, Hit, Miss, Revalidate, StaleHit, Unsatisfiable
from proxy.policy.reasons import Reason
from proxy.policy.status import cache_status
from proxy.storage.base import Entry, VaryMarker
from proxy.storage.invalidation_log import Purge, PurgeScope
from proxy.upstream.collapse import Flight

METHODS: Final = frozenset({"GET", "HEAD"})
ORIGIN_CONDITIONS: Final = (IF_MATCH, istr("If-Unmodified-Since"))
ATTEMPTS: Final = 3
"""How often a request that joined a flight for another variant looks again before it goes on its own."""


class _Turn(Enum):
    AGAIN = "look again: the flight brought another variant"


_BYPASS: Final = CacheResult.BYPASS
_TAG: Final = PurgeScope.TAG
_PLACE: Final = ExchangeKey[Place]("cache place")


class Cache(Plugin[CacheSettings]):
    """See the module."""

    name: ClassVar[str] = "cache"
    settings_type = CacheSettings
    answers_by_replay: ClassVar[bool] = True

    def __init__(
        self,
        settings: CacheSettings,
        services: Services,
        draw: Callable[[], float] = random.random,  # from [0, 1); it only spreads refreshes
    ) -> None:
        super().__init__(settings, services)
        self._draw = draw
        self._guard = FieldGuard(
            {name.lower(): rule for name, rule in settings.unkeyed_fields.items()}, settings.key_rules().fields
        )
        self._options = settings.policy_options()
        self._rules = settings.key_rules()
        self._clock = services.clock
        self._store = services.store
        self._log = services.invalidations
        self._account = Account(services.clock, services.metrics)
        self._status_field: Callable[[CacheReport], str] | None = None
        if settings.cache_status:
            self._status_field = partial(cache_status, key=settings.cache_status_key)
        self._asides = Asides(self._status_field)
        self._fetcher: Fetcher
        self._forms: FormMaker
        self._finder: Finder
        self._shortcuts: Shortcuts
        self._last_tag_purge = 0

    @override
    async def start(self) -> None:
        self._fetcher = Fetcher(self.settings, self._options, self.services)
        self._forms = FormMaker(self._store, self.services.tasks)
        self._finder = Finder(self._store, self._fetcher, self._clock, self._options)
        self._shortcuts = Shortcuts(
            self.settings, self._options, self.services, self._fetcher, self._account, self._guard, self._status_field
        )
        self._log.subscribe(self._on_purge)

    @override
    async def close(self) -> None:
        self._log.unsubscribe(self._on_purge)

    def _on_purge(self, purge: Purge | None) -> None:
        if purge is None or purge.scope is _TAG:
            self._last_tag_purge = self._log.last_seen if purge is None else purge.id

    @override
    async def on_request(self, exchange: Exchange) -> Response | None:
        request = exchange.request
        aside = self._why_aside(exchange)
        if aside is None and request.method in self.settings.body_methods:
            request, known = await read_content(request, self.settings.max_request_body_bytes)
            exchange.request = request
            aside = None if known else Reason.REQUEST_BODY
        if aside is not None:
            exchange.cache = self._asides.asked(aside)
            if aside is Reason.CACHE_OFF and exchange.transcript is not None:
                exchange.passage = self._shortcuts.passages.without(request)
            return None
        request = exchange.request = self._guard.without_dropped(request)
        primary = primary_key(request, self._rules)
        for _ in range(ATTEMPTS):
            place = self._finder.find_local(primary, request)
            if self._finder.may_be_beyond(request, place):
                place = await self._finder.find_beyond(request, place)
            now = self._clock.wall()
            stored = place.entry.stored if place.entry is not None else None
            decision = reuse.decide(request, stored, now, self._options)
            if isinstance(decision, Revalidate):
                place, decision = await self._finder.look_past_l1(request, place, decision)
                now = self._clock.wall()
            exchange.put(_PLACE, place)
            landed = await self._act(exchange, place, decision, now)
            if landed is not _Turn.AGAIN:
                return landed
        self._alone(exchange, Reason.VARY_MISS, None, primary)
        return None

    def _why_aside(self, exchange: Exchange) -> Reason | None:
        """Why the cache has nothing to do with the request, if it has not."""
        request = exchange.request
        if self.settings.bypass:
            return Reason.CACHE_OFF
        if request.method not in METHODS and request.method not in self.settings.body_methods:
            return Reason.METHOD_NOT_CACHED
        if exchange.switch_to:
            return Reason.PROTOCOL_SWITCH
        if self._guard.bypasses(self._guard.found(request)):
            return Reason.REQUEST_FIELD
        if request.method not in METHODS:
            # With an unsafe method these are conditions on the state that it is to change (RFC 9110 §13.1.2).
            conditional = any(name in request.headers for name in (*ORIGIN_CONDITIONS, *CLIENT_CONDITIONS))
            return Reason.REQUEST_CONDITION if conditional else None
        return Reason.REQUEST_BODY if request.body else None

    async def explain(self, exchange: Exchange) -> Explanation:
        """See `Explains.explain`."""
        exchange.request = self._guard.without_dropped(exchange.request)
        explainer = Explainer(self.settings, self._options, self.services, self._fetcher)
        return await explainer.explain(exchange, self._why_aside(exchange))

    async def _act(self, exchange: Exchange, place: Place, decision: Decision, now: float) -> Response | _Turn | None:
        entry = place.entry
        key = flight_key(exchange.request, place)
        match decision:
            case Hit():
                assert entry is not None
                reason = decision.reason
                if self.settings.early_refresh_beta and self._refreshes_early(entry, now):
                    self._refresh(exchange, key, place)
                    reason = Reason.REFRESHED_EARLY
                report = CacheReport(CacheResult.HIT, reason, ttl=decision.ttl, tier=place.tier, key=place.key.primary)
                if exchange.wants_replay and place.tier == "l1":
                    exchange.replay = self._shortcuts.replay(exchange.request, place, entry, report)
                elif exchange.transcript is not None and place.tier == "l2":
                    exchange.recall = self._shortcuts.recall(exchange.request, place, entry, report)
                return self._serve(exchange, place, entry, now, report)
            case StaleHit():
                assert entry is not None
                if decision.refresh:
                    self._refresh(exchange, key, place)
                report = CacheReport(
                    CacheResult.STALE, decision.reason, ttl=decision.ttl, tier=place.tier, key=place.key.primary
                )
                return self._serve(exchange, place, entry, now, report)
            case Unsatisfiable():
                report = CacheReport(CacheResult.MISS, decision.reason, key=place.key.primary)
                self._report(exchange, report)
                return problem(504, "Gateway Timeout", "nothing stored answers this request, and it forbids asking")
            case Revalidate():
                failing = self._fetcher.failing.holds(key, self._clock.monotonic())
                if failing and entry is not None and (stale := self._stale_on_error(exchange, place, now)) is not None:
                    return stale
                return await self._fetch(exchange, key, place, decision.reason, decision.ttl)
            case Miss():
                # A part that does not answer this request is not asked for: a 304 would bring it back.
                place = Place(place.key, place.marker)
                part = wanted_part(exchange.request) if self.settings.store_parts else None
                key = key if part is None else (*key, part)
                return await self._fetch(exchange, key, place, why_missing(decision.reason, place.marker), None)

    def _refreshes_early(self, entry: Entry, now: float) -> bool:
        draw = 1.0 - self._draw()
        return reuse.refreshes_early(entry.stored, now, beta=self.settings.early_refresh_beta, draw=draw)

    # Answering.

    def _serve(self, exchange: Exchange, place: Place, entry: Entry, now: float, report: CacheReport) -> Response:
        return self._send(exchange, place, entry, aged_headers(entry.stored, now), report)

    def _send(self, exchange: Exchange, place: Place, entry: Entry, headers: Headers, report: CacheReport) -> Response:
        self._report(exchange, report)
        if entry.stored.content_range is None:
            exchange.forms = EntryForms(self._forms, place.key, entry)
        return respond(exchange.request, entry.stored, headers, entry.body)

    @override
    def on_replay(self, exchange: Exchange, outcome: Outcome) -> ReplayPart:
        return self._shortcuts.replay_part(exchange)

    @override
    def on_passage(self, exchange: Exchange, outcome: Outcome) -> PassagePart | None:
        return self._shortcuts.passage_part(exchange, outcome)

    @property
    @override
    def heeded_fields(self) -> frozenset[str]:
        return self._guard.fields | frozenset(self._rules.fields) | HEEDED_FIELDS

    def _refresh(self, exchange: Exchange, key: FlightKey, place: Place) -> None:
        """Fetch in the background, once for all, and not again soon after a failure."""
        if self._fetcher.flights.find(key) is not None:
            return
        if self._fetcher.failing.holds(key, self._clock.monotonic()):
            return
        look = place.tier == "l1" and self._store.l2 is not None
        _, voyage = self._fetcher.set_out(key, exchange, place, look=look)
        voyage.claim(taken=False)

    def _stale_on_error(
        self, exchange: Exchange, place: Place, now: float, *, fwd: str = "", fwd_status: int | None = None
    ) -> Response | None:
        """The stored response in place of an error, if it may be used so (RFC 5861 §4).

        Args:
            fwd, fwd_status: why the origin was asked, and what it answered. Without an answer of it the stored response
                counts as a hit (RFC 9211 §2.1).
        """
        entry = place.entry
        if entry is None or not reuse.usable_on_error(exchange.request, entry.stored, now, self._options):
            return None
        ttl = entry.stored.fresh_until - now
        report = CacheReport(
            CacheResult.STALE,
            Reason.STALE_IF_ERROR,
            fwd,
            fwd_status,
            ttl=ttl,
            tier=place.tier,
            key=place.key.primary,
        )
        return self._serve(exchange, place, entry, now, report)

    # Fetching.

    async def _fetch(
        self, exchange: Exchange, key: FlightKey, place: Place, reason: Reason, ttl: float | None
    ) -> Response | _Turn | None:
        request = exchange.request
        lone = self._why_alone(request, key, place)
        if lone is not None:
            self._alone(exchange, reason if lone is Reason.METHOD_NOT_CACHED else lone, ttl, place.key.primary)
            if lone is Reason.RECENTLY_UNCACHEABLE and exchange.transcript is not None:
                exchange.passage = self._shortcuts.passages.uncacheable(request, place)
            return None
        flight = self._fetcher.flights.find(key)
        announced = own_flight(exchange.transcript, key)
        voyage: Voyage | None = None
        if announced is not None or flight is None or not self._may_join(request, place, flight, reason):
            part = place.entry is None and RANGE in request.headers
            flight, voyage = self._fetcher.set_out(key, exchange, place, part=part, announced=announced)
        try:
            landed = await flight.wait()
        except asyncio.CancelledError:
            if voyage is not None:
                voyage.claim(taken=False)
            raise
        except ProxyError as error:
            return self._on_failure(exchange, place, reason, error)
        if voyage is not None:
            voyage.claim(taken=True)
            exchange.upstream_seconds = voyage.exchange.upstream_seconds
        return await self._deliver(exchange, place, landed, reason, ttl, voyage)

    def _why_alone(self, request: Request, key: FlightKey, place: Place) -> Reason | None:
        """Why this request goes to the origin by itself, its answer neither stored nor shared, if it does."""
        if request.method == "HEAD":
            return Reason.METHOD_NOT_CACHED
        alone = RANGE in request.headers and not (self.settings.store_parts and wanted_part(request) is not None)
        if alone and place.entry is None:
            return Reason.RANGE_REQUEST
        if any(name in request.headers for name in ORIGIN_CONDITIONS):
            return Reason.REQUEST_CONDITION
        if self._fetcher.uncacheable.holds(key, self._clock.monotonic()):
            return Reason.RECENTLY_UNCACHEABLE
        return None

    def _may_join(self, request: Request, place: Place, flight: Flight[Landed], reason: Reason) -> bool:
        """Whether `request` may have what `flight` brings: not when a purge, or the origin's answer, came before it."""
        # With nothing stored the reason does not tell what the client demands.
        if flight.landed and (reason is Reason.REQUEST_MAX_AGE or reuse.refuses_earlier(request, self._options)):
            return False
        if flight.since == self._log.last_seen:
            return True
        if self._last_tag_purge > flight.since:  # its tags are not known yet: assume the worst
            return False
        fetched = VaryMarker(names=(), generation=0, discard_at=0.0, url=request.url, purge_id=flight.since)
        return self._log.newest_match(place.key.primary, fetched) is None

    async def _deliver(
        self,
        exchange: Exchange,
        place: Place,
        landed: Landed,
        reason: Reason,
        ttl: float | None,
        voyage: Voyage | None,
    ) -> Response | _Turn | None:
        """The client's response from what the flight brought."""
        request, now = exchange.request, self._clock.wall()
        fwd = reason.fwd
        if isinstance(landed, Withdrawn):
            return _Turn.AGAIN
        if isinstance(landed, Passed):
            if landed.response.status in ERROR_STATUSES and voyage is not None:
                status = landed.response.status
                stale = self._stale_on_error(exchange, place, now, fwd=fwd, fwd_status=status)
                if stale is not None:
                    await close_body(landed.response.body)
                    return stale
            if voyage is None:
                self._alone(exchange, Reason.RECENTLY_UNCACHEABLE, ttl, place.key.primary)
                return None
            report = CacheReport(CacheResult.MISS, landed.reason, fwd, landed.response.status, key=place.key.primary)
            self._report(exchange, report)
            return landed.response
        if voyage is None and not landed.shared:
            self._alone(exchange, reason, ttl, place.key.primary)
            return None
        if voyage is None and not landed.suits(request):
            return _Turn.AGAIN
        result = CacheResult.REVALIDATED if landed.confirmed else CacheResult.MISS
        report = CacheReport(
            result=result,
            reason=Reason.VALIDATED if landed.confirmed else reason,
            fwd=fwd,
            fwd_status=landed.status,
            stored=landed.shared,
            collapsed=voyage is None,
            ttl=landed.stored.fresh_until - now,
            key=place.key.primary,
        )
        # What is not stored of the response (Set-Cookie, say) is for the client that caused it.
        own = voyage is not None and not landed.confirmed
        headers = landed.response.headers if own else aged_headers(landed.stored, now)
        if landed.entry is not None:
            if voyage is not None and exchange.transcript is not None and reason is Reason.NOTHING_STORED:
                self._shortcuts.learn_filling(exchange, voyage, place, landed, report)
            return self._send(exchange, place, landed.entry, headers, report)
        assert landed.body is not None
        reader = voyage.reader if voyage is not None else None
        if reader is None:
            if landed.body.overflown:
                self._alone(exchange, Reason.TOO_LARGE, ttl, place.key.primary)
                return None
            reader = landed.body.reader()
        self._report(exchange, report)
        response = respond(request, landed.stored, headers, reader)
        if response.body is not reader:  # the client's own copy is good
            reader.leave()
        return response

    def _on_failure(self, exchange: Exchange, place: Place, reason: Reason, error: ProxyError) -> Response:
        """Stale instead of `error` if there is any, else `error`."""
        if isinstance(error, UpstreamError):
            stale = self._stale_on_error(exchange, place, self._clock.wall())
            if stale is not None:
                return stale
        self._report(exchange, CacheReport(CacheResult.MISS, Reason.UPSTREAM_ERROR, reason.fwd, key=place.key.primary))
        raise error

    def _alone(self, exchange: Exchange, reason: Reason, ttl: float | None, key: str) -> None:
        """Let the request go on by itself. `on_response` or `on_error` sees how that ends."""
        exchange.cache = CacheReport(CacheResult.MISS, reason, reason.fwd, ttl=ttl, key=key)

    # What did not go through a flight.

    @override
    async def on_response(self, exchange: Exchange, response: Response) -> Response:
        request, place = exchange.request, exchange.take(_PLACE)
        if response.status in ERROR_STATUSES and place is not None:
            fwd = exchange.cache.fwd
            stale = self._stale_on_error(exchange, place, self._clock.wall(), fwd=fwd, fwd_status=response.status)
            if stale is not None:
                await close_body(response.body)
                return stale
        await self._fetcher.invalidate(request, response)
        if request.method == "HEAD" and place is not None and place.entry is not None:
            self._fetcher.compare_head(request, place.key, place.entry, response, exchange.upstream_seconds or 0.0)
        asked = exchange.cache
        if asked.result is _BYPASS and asked.reason is not None:
            exchange.cache, status_field = self._asides.answered(asked.reason, response.status)
            if status_field and self.settings.tells(exchange.request.client):
                exchange.response_fields.append(("Cache-Status", status_field))
        else:
            self._report(exchange, asked.with_status(response.status))
        return response

    @override
    async def on_error(self, exchange: Exchange, error: UpstreamError) -> Response | None:
        place = exchange.take(_PLACE)
        if place is not None:
            stale = self._stale_on_error(exchange, place, self._clock.wall())
            if stale is not None:
                return stale
        self._report(exchange, exchange.cache)
        return None

    # Accounting.

    def _report(self, exchange: Exchange, report: CacheReport) -> None:
        exchange.cache = report
        if self._status_field is not None and self.settings.tells(exchange.request.client):
            exchange.response_fields.append(("Cache-Status", self._status_field(report)))

    @override
    def on_complete(self, exchange: Exchange, outcome: Outcome) -> None:
        self._account.record(exchange.route.name, exchange.cache, outcome.bytes_sent)

    @override
    def stats(self) -> Stats:
        return {**self._account.stats(), "fetches_under_way": len(self._fetcher.flights)}
