"""Fetching for the cache: one flight per key, from the upstream request to the stored entry.

Theory of operation. A flight runs what stands right of the cache in a task of its own. When the head is here it lands:
as `Kept` if the response may be stored, and everybody who waits answers from it, the body still arriving perhaps; or as
`Passed` if it may not, and only the request that caused the flight may have it. The invalidation log's position is read
before the upstream request begins and travels with the entry: a purge in between voids it.
"""

from dataclasses import replace
from functools import partial
from typing import Final

from typing_extensions import override

from plugins.cache.asking import filling_request
from plugins.cache.landing import FlightKey, Kept, Landed, Passed, Place, Voyage
from plugins.cache.parts import beside, is_whole_part
from plugins.cache.recent import Recent
from plugins.cache.settings import CacheSettings
from plugins.cache.variants import is_crowded, variant_place
from proxy.errors import ProxyError, UpstreamError
from proxy.http.body import BodyStream, WrappedStream, close_body
from proxy.http.message import Request, Response
from proxy.http.names import CACHE_GROUP_INVALIDATION
from proxy.pipeline.exchange import Exchange, Outcome
from proxy.pipeline.plugin import Services
from proxy.policy import invalidation, reuse, storing, validation, vary
from proxy.policy.freshness import lifetime
from proxy.policy.keys import primary_key
from proxy.policy.model import PolicyOptions, Stored
from proxy.policy.reasons import Reason
from proxy.storage.base import CacheKey, Entry, PurgeId, VaryMarker
from proxy.storage.invalidation_log import PurgeScope
from proxy.upstream.collapse import Flight, Flights, SharedBody

ERROR_STATUSES: Final = frozenset({500, 502, 503, 504})
_URL: Final = PurgeScope.URL
"""What stale-if-error calls an error (RFC 5861 §4)."""


class _CompletingStream(WrappedStream):
    """Tells the plugins right of the cache that their exchange is over when the body is."""

    __slots__ = ("_complete", "_voyage")

    def __init__(self, source: BodyStream, complete: "Fetcher", voyage: Voyage) -> None:
        super().__init__(source)
        self._complete: Fetcher | None = complete
        self._voyage = voyage

    @override
    async def aclose(self) -> None:
        await self._source.aclose()
        if self._complete is not None:
            self._complete.completed(self._voyage, None)
            self._complete = None


class Fetcher:
    """Fetches, and stores what may be stored.

    Attributes:
        flights: under way.
        uncacheable: keys whose requests go side by side, for a response was not to be stored.
        nowhere: those of them for which no tier had anything: what another sidecar stores is seen when this ends.
        failing: keys for which the origin failed; what is stored for them is not refreshed at once again.
    """

    def __init__(self, settings: CacheSettings, options: PolicyOptions, services: Services) -> None:
        self._settings = settings
        self._options = options
        self._rules = settings.key_rules()
        self._merges_queries = self._rules.merges_queries
        self._services = services
        self._clock = services.clock
        self._store = services.store
        self._log = services.invalidations
        self.flights: Flights[FlightKey, Landed] = Flights(services.tasks)
        self.uncacheable = Recent()
        self.nowhere = Recent()
        self.failing = Recent()

    def set_out(
        self,
        key: FlightKey,
        exchange: Exchange,
        place: Place,
        *,
        part: bool = False,
        look: bool = False,
        announced: Flight[Landed] | None = None,
    ) -> tuple[Flight[Landed], Voyage]:
        """Begin a flight for what `exchange` asks; `place` is where it is stored, or will be.

        Args:
            part: for the range that it asks for, not the whole.
            look: into L2 first, for what another sidecar may have put in the place of the stored entry.
            announced: see `Flights`.
        """
        assert exchange.tail is not None
        request = filling_request(exchange.request, place.entry, part=part)
        voyage = Voyage(exchange.detach(request), exchange.tail, place)
        voyage.exchange.informational = exchange.informational
        voyage.exchange.transcript = exchange.transcript
        since = self._log.last_seen if announced is None else announced.since

        # No nested function: its annotations would be made anew for each flight, which costs 4 µs.
        fetch = partial(self._look_first, exchange.request) if look else self._fly
        name = f"fetch {place.key.primary}"
        work = partial(fetch, key, voyage)
        return self.flights.depart(key, work, name=name, since=since, announced=announced), voyage

    async def _look_first(self, request: Request, key: FlightKey, voyage: Voyage, flight: Flight[Landed]) -> None:
        newer = await self._find_newer(request, voyage.place)
        if newer is not None:
            flight.land(newer)
        else:
            await self._fly(key, voyage, flight)

    async def _find_newer(self, request: Request, place: Place) -> Kept | None:
        """What L2 has in place of what L1 has, if it is fresh."""
        assert place.entry is not None
        newer = await self._store.get_newer(place.key, place.entry)
        if newer is None or newer.stored.fresh_until <= self._clock.wall():
            return None
        stored = newer.stored
        head = Response(stored.status, stored.headers, newer.body, stored.reason_phrase)
        variant = vary.variant_key(stored.vary, request.headers) if stored.vary else ""
        return Kept(head, stored, newer, None, stored.vary, variant, stored.status, found=True)

    async def _fly(self, key: FlightKey, voyage: Voyage, flight: Flight[Landed]) -> None:
        began = self._clock.wall()
        transcript = voyage.exchange.transcript
        if transcript is not None and transcript.begun is not None:  # it has been under way for a while
            began -= max(0.0, self._clock.monotonic() - transcript.began)
        purge_id = flight.since
        try:
            response = await voyage.tail.run(voyage.exchange)
        except ProxyError as error:
            self.completed(voyage, error)
            self._remember_failure(key, voyage)
            raise
        except BaseException:
            self.completed(voyage, None, aborted=True)
            raise
        finally:
            if transcript is not None:
                transcript.drop()  # what was under way and nobody took over
        voyage.status = response.status
        received = self._clock.wall()
        if response.status == 304 and voyage.place.entry is not None:
            await close_body(response.body)
            self.completed(voyage, None)
            kept = await self._freshen(voyage, voyage.place.entry, response, began, received, purge_id)
            if kept is not None:
                self.failing.discard(key)
                flight.land(kept)
                return
            # The origin confirmed something that is not stored here: ask again without validators.
            hints = voyage.exchange.informational
            voyage.exchange = voyage.exchange.detach(filling_request(voyage.exchange.request, None))
            voyage.exchange.informational = hints
            voyage.place = replace(voyage.place, entry=None)
            await self._fly(key, voyage, flight)
            return
        reason = self._refusal(voyage.exchange.request, voyage.place, response)
        if reason is not None:
            try:
                await self.invalidate(voyage.exchange.request, response)  # whether the client is still there or not
            except BaseException:
                await close_body(response.body)
                self.completed(voyage, None, aborted=True)
                raise
            if response.status in ERROR_STATUSES:
                self._remember_failure(key, voyage)
            else:
                self._remember_uncacheable(key, voyage.place, reason)
            await self._pass(flight, voyage, response, reason)
            return
        self.failing.discard(key)
        await self._keep(key, flight, voyage, response, began, received, purge_id)

    def _remember_uncacheable(self, key: FlightKey, place: Place, reason: Reason) -> None:
        until = self._clock.monotonic() + self._settings.uncacheable_seconds
        self.uncacheable.add(key, until, reason)
        if place.entry is None:
            self.nowhere.add(key, until, reason)
        else:  # what is stored may have to answer in place of an error
            self.nowhere.discard(key)

    def _remember_failure(self, key: FlightKey, voyage: Voyage) -> None:
        if voyage.place.entry is not None:
            self.failing.add(key, self._clock.monotonic() + self._settings.retry_seconds, Reason.UPSTREAM_ERROR)

    def _refusal(self, request: Request, place: Place, response: Response) -> Reason | None:
        """Why `response` may not be stored, if it may not."""
        verdict = storing.may_store(request, response, self._options)
        if not verdict:
            return verdict.reason
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > self._settings.max_object_bytes:
            return Reason.TOO_LARGE
        if isinstance(response.body, bytes) and len(response.body) > self._settings.max_object_bytes:
            return Reason.TOO_LARGE
        if request.method == "POST" and not self._is_fresh_explicitly(response):
            return Reason.NO_FRESHNESS
        if isinstance(response.body, bytes) and not storing.is_complete(request, response, len(response.body)):
            return Reason.INCOMPLETE
        return Reason.TOO_MANY_VARIANTS if self._is_one_too_many(request, place, response) else None

    def _is_fresh_explicitly(self, response: Response) -> bool:
        """RFC 9110 §9.3.3: what a POST brings has a lifetime from the origin, or is not stored."""
        return lifetime(response, received=self._clock.wall(), options=self._options).explicit

    def _is_one_too_many(self, request: Request, place: Place, response: Response) -> bool:
        names, marker = vary.vary_names(response.headers), place.marker
        if marker is None or not names or not set(names) <= set(marker.names):
            return False
        place_of = variant_place(place.key.primary, marker, request)
        return is_crowded(self._store.l1, place_of, marker, self._clock.wall(), self._options.max_variants)

    async def _pass(self, flight: Flight[Landed], voyage: Voyage, response: Response, reason: Reason) -> None:
        flight.joinable = False
        if isinstance(response.body, bytes):
            self.completed(voyage, None)
            flight.land(Passed(response, reason))
            return
        stream = _CompletingStream(response.body, self, voyage)
        flight.land(Passed(response.with_body(response.headers, stream), reason))
        taken = False
        try:
            taken = await voyage.claimed
        finally:
            if not taken:
                await stream.aclose()

    async def _keep(
        self,
        key: FlightKey,
        flight: Flight[Landed],
        voyage: Voyage,
        response: Response,
        began: float,
        received: float,
        purge_id: PurgeId,
    ) -> None:
        request = voyage.exchange.request
        length = len(response.body) if isinstance(response.body, bytes) else 0
        stored = reuse.admit(
            request, response, request_time=began, response_time=received, body_length=length, options=self._options
        )
        names = stored.vary
        variant = vary.variant_key(names, request.headers) if names else ""
        if isinstance(response.body, bytes):
            entry = self._entry(voyage, response, stored, response.body, purge_id)
            await self._put(request, entry, names, response)
            self.completed(voyage, None)
            flight.land(Kept(response, stored, entry, None, names, variant, response.status))
            return
        shared = SharedBody(self._settings.max_object_bytes)
        if not voyage.claimed.done():
            voyage.reader = shared.reader()
        flight.land(Kept(response, stored, None, shared, names, variant, response.status))
        try:
            error = await _pump(response.body, shared, flight)
        except BaseException:
            self.completed(voyage, None, aborted=True)
            raise
        if shared.overflown or error is not None:
            await self.invalidate(request, response)
        if shared.overflown:
            self._remember_uncacheable(key, voyage.place, Reason.TOO_LARGE)
        elif error is None and storing.is_complete(request, response, shared.size):
            whole = shared.whole()
            stored = replace(stored, body_length=len(whole))
            await self._put(request, self._entry(voyage, response, stored, whole, purge_id), names, response)
        self.completed(voyage, error)

    def _entry(self, voyage: Voyage, response: Response, stored: Stored, body: bytes, purge_id: PurgeId) -> Entry:
        return Entry(
            stored=stored,
            body=body,
            url=voyage.exchange.request.url,
            purge_id=purge_id,
            discard_at=reuse.discard_at(stored),
            tags=self._tags(voyage.exchange.request, response),
            route=voyage.exchange.route.name,
        )

    def _tags(self, request: Request, response: Response) -> tuple[str, ...]:
        tags = list(invalidation.groups(request, response))
        for name in self._settings.tag_headers:
            for line in response.headers.getall(name, ()):
                tags += line.replace(",", " ").split()
        return tuple(dict.fromkeys(tags))

    async def _put(self, request: Request, entry: Entry, names: tuple[str, ...], response: Response) -> None:
        """Store `entry`, and the marker of a resource that varies; a part together with what it continues."""
        primary = primary_key(request, self._rules)
        key = CacheKey(primary)
        if names:
            key = variant_place(primary, await self._marker(primary, entry, names), request)
        if entry.stored.content_range is not None:
            if not is_whole_part(entry.stored, len(entry.body)):
                return
            held = await self._store.get(key)
            limit = self._settings.max_object_bytes
            known = held.record if held is not None else None
            grown = beside(known, entry, response, max_bytes=limit, options=self._options)
            if grown is known:
                return
            entry = grown
        self._store.put(key, entry)

    async def _marker(self, primary: str, entry: Entry, names: tuple[str, ...]) -> VaryMarker:
        """The marker under which `entry` belongs. Names are only ever added: a response keyed by more fields than its
        own Vary names is found by fewer requests, never by a wrong one.
        """
        found = await self._store.get(CacheKey(primary))
        known = found.record if found is not None and isinstance(found.record, VaryMarker) else None
        if known is not None and set(names) <= set(known.names):
            if known.discard_at < entry.discard_at:
                self._store.put(CacheKey(primary), replace(known, discard_at=entry.discard_at))
            return known
        united = tuple(sorted({*names, *(known.names if known is not None else ())}))
        marker = VaryMarker(
            names=united,
            generation=(known.generation if known is not None else int(self._clock.wall() * 1000)) + 1,
            discard_at=entry.discard_at,
            url=entry.url,
            purge_id=entry.purge_id,
        )
        self._store.put(CacheKey(primary), marker)
        return marker

    async def _freshen(
        self, voyage: Voyage, old: Entry, response: Response, began: float, received: float, purge_id: PurgeId
    ) -> Kept | None:
        if not validation.selects(old.stored, response):
            return None
        stored = validation.freshen(
            old.stored, response, request_time=began, response_time=received, options=self._options
        )
        request = voyage.exchange.request
        # A purge by tag goes by what the origin says now; a 304 need not repeat it.
        tags = self._tags(request, Response(stored.status, stored.headers)) or old.tags
        entry = replace(old, stored=stored, purge_id=purge_id, discard_at=reuse.discard_at(stored), tags=tags)
        shared = storing.may_update(request, stored.headers, self._options)
        if shared:
            self._store.put(voyage.place.key, entry)
            # One that may not be stored takes back what it confirms: nobody else may have it, those who wait included.
            shared = not storing.forbids_storing(stored.headers, self._options)
        variant = vary.variant_key(stored.vary, request.headers) if stored.vary else ""
        head = Response(stored.status, stored.headers, entry.body, stored.reason_phrase)
        return Kept(head, stored, entry, None, stored.vary, variant, 304, confirmed=True, shared=shared)

    def compare_head(self, request: Request, key: CacheKey, entry: Entry, head: Response, seconds: float) -> None:
        """What a response to HEAD says of the stored response to GET: one that contradicts makes it void, one that
        agrees freshens it (RFC 9111 §4.3.5). Purges that came since it was fetched still count.

        Args:
            seconds: how long the origin took to answer.
        """
        if head.status != 200 or entry.stored.status != 200 or self._store.l1.peek(key) is not entry:
            return
        if not validation.head_agrees(entry.stored, head):
            self._store.delete(key)
            return
        now = self._clock.wall()
        stored = validation.freshen(
            entry.stored, head, request_time=now - seconds, response_time=now, options=self._options
        )
        if storing.may_update(request, stored.headers, self._options):
            tags = self._tags(request, Response(stored.status, stored.headers)) or entry.tags
            self._store.put(key, replace(entry, stored=stored, discard_at=reuse.discard_at(stored), tags=tags))

    async def invalidate(self, request: Request, response: Response) -> None:
        """What an unsafe method's success makes void (RFC 9111 §4.4, RFC 9875)."""
        urls = invalidation.invalidated_by(request, response)
        if not urls:
            return  # nothing changed
        for url in urls:
            await self._log.append(_URL, url)
            if self._merges_queries:  # what answers this URI may have been stored for another one
                await self._log.append(PurgeScope.KEY, self._key_of_get(request, url))
        if CACHE_GROUP_INVALIDATION in response.headers:
            for group in invalidation.invalidated_groups(request, response):
                await self._log.append(PurgeScope.TAG, group)

    def _key_of_get(self, request: Request, url: str) -> str:
        """The key under which GET for `url`, of the same origin and with the same fields as `request`, is stored."""
        target = url.removeprefix(f"{request.scheme}://{request.host}")
        return primary_key(replace(request, method="GET", target=target), self._rules)

    def completed(self, voyage: Voyage, error: ProxyError | None, *, aborted: bool = False) -> None:
        """Tell the plugins right of the cache how the voyage ended."""
        exchange = voyage.exchange
        outcome = Outcome(
            status=error.status_hint if error is not None and not voyage.status else voyage.status,
            bytes_sent=0,
            duration=self._clock.monotonic() - exchange.started,
            error=error,
            aborted=aborted,
        )
        voyage.tail.complete(exchange, outcome)


async def _pump(source: BodyStream, shared: SharedBody, flight: Flight[Landed]) -> ProxyError | None:
    """Move a body as it arrives to its readers. Returns what cut it off."""
    error: ProxyError | None = None
    ended = False
    try:
        async for chunk in source:
            await shared.feed(chunk)
            if shared.overflown:
                flight.joinable = False
                if not shared.wanted:
                    break
        ended = True
    except ProxyError as raised:
        error = raised
    finally:
        if not ended and error is None:
            error = UpstreamError("the transfer was broken off")
        flight.joinable = flight.joinable and error is None
        shared.finish(error)
        await source.aclose()
    return error
