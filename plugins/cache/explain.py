"""Why was this not cached? The way of a request through the cache, step by step, without taking it.

What is said here is what the code that decides would decide: `reuse.decide` is asked, the store is looked into, the
memory of uncacheable keys is read. Only advice is worded here; reasons are worded in `proxy.policy.reasons`.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final, assert_never

from plugins.cache.fetch import Fetcher
from plugins.cache.landing import FlightKey
from plugins.cache.settings import CacheSettings
from plugins.cache.variants import variant_place, why_missing
from proxy.http.cache_control import request_directives
from proxy.http.message import Request
from proxy.pipeline.exchange import Exchange
from proxy.pipeline.explanation import Check, Explanation, StoredVariant
from proxy.pipeline.plugin import Services
from proxy.policy import reuse
from proxy.policy.freshness import current_age
from proxy.policy.keys import primary_key
from proxy.policy.model import Decision, Hit, Miss, PolicyOptions, Revalidate, StaleHit, Unsatisfiable
from proxy.policy.reasons import Reason
from proxy.storage.base import CacheKey, Entry, Record, VaryMarker

ADVICE: Final = {
    Reason.CACHE_OFF: "Set `bypass = false` in the route's `plugins.cache`.",
    Reason.METHOD_NOT_CACHED: "Ask with GET; a route may list POST and QUERY in `plugins.cache.body_methods`.",
    Reason.REQUEST_FIELD: 'Leave the field out, or say "pass" for it in `plugins.cache.unkeyed_fields` if the origin '
    "does not heed it.",
    Reason.TOO_MANY_VARIANTS: "Fewer distinct values of the fields in Vary, or a higher `plugins.cache.max_variants`.",
    Reason.REQUEST_BODY: "Send the GET without a body, or put what it says into the query.",
    Reason.NO_STORE: "Have the origin leave out `no-store`.",
    Reason.PRIVATE: "If everybody may see the response, have the origin leave out `private`.",
    Reason.AUTHORIZATION: "If every authorised client may share it, have the origin say `public`, `s-maxage` or "
    "`must-revalidate`.",
    Reason.SET_COOKIE: "Have the origin set the cookie elsewhere, or say `public`; or set `store_set_cookie` on a "
    "route whose cookies are nobody's own.",
    Reason.VARY_STAR: "Have the origin name the request fields that matter instead of `Vary: *`.",
    Reason.NO_FRESHNESS: "Have the origin send `Cache-Control: max-age=…` or an ETag; or give the route a "
    "`plugins.cache.ttl_seconds`.",
    Reason.STATUS_NOT_CACHEABLE: "Have the origin say `max-age` on this status code, too.",
    Reason.NEVER_REUSABLE: "Have the origin send an ETag or Last-Modified, or a lifetime above zero.",
    Reason.NO_CACHE: "Have the origin give a lifetime instead of `no-cache`, if it need not be asked each time.",
    Reason.STALE: "A longer `max-age`, or `stale-while-revalidate`, would let it answer at once.",
    Reason.MUST_REVALIDATE: "A longer lifetime would help; `must-revalidate` and `s-maxage` forbid stale answers.",
    Reason.REQUEST_NO_CACHE: 'The client asks for it; a route may list "no-cache" in `ignore_request_directives`.',
    Reason.REQUEST_PRAGMA: 'The client asks for it; a route may list "pragma" in `ignore_request_directives`.',
    Reason.REQUEST_MAX_AGE: 'The client asks for it; a route may list "max-age" in `ignore_request_directives`.',
    Reason.REQUEST_MIN_FRESH: 'The client asks for it; a route may list "min-fresh" in `ignore_request_directives`.',
    Reason.REQUEST_NO_STORE: 'The client asks for it; a route may list "no-store" in `ignore_request_directives`.',
    Reason.ONLY_IF_CACHED: 'Warm the URL up, or list "only-if-cached" in `ignore_request_directives`.',
    Reason.TOO_LARGE: "Raise `plugins.cache.max_object_bytes`, and `cache.max_object_bytes` with it.",
    Reason.VARY_MISS: "Fewer distinct values of the fields in Vary would make fewer variants.",
    Reason.UPSTREAM_ERROR: "Look at `/health/dependencies`: the upstream fails.",
    Reason.NOTHING_STORED: "The next request fetches it; if it stays a miss, look at `steps` again then: the reason "
    "why a response was not stored is remembered for a while.",
}


_BY_TOKEN: Final = {reason.token: reason for reason in Reason}


@dataclass(frozen=True, slots=True)
class _Look:
    """What is stored where."""

    tier: str
    key: CacheKey
    record: Record


class Explainer:
    """Explains what one cache plugin would do."""

    def __init__(self, settings: CacheSettings, options: PolicyOptions, services: Services, fetcher: Fetcher) -> None:
        self._settings = settings
        self._options = options
        self._rules = settings.key_rules()
        self._services = services
        self._fetcher = fetcher

    async def explain(self, exchange: Exchange, aside: Reason | None) -> Explanation:
        """The explanation of a request.

        Args:
            exchange: as it would come to the cache.
            aside: why the cache would stand aside without looking, if it would.
        """
        request, now = exchange.request, self._services.clock.wall()
        primary = primary_key(request, self._rules)
        steps = [
            Check(step="route", outcome=f"The route {exchange.route.name!r} takes it: {_matched_by(exchange)}."),
            Check(step="key", outcome=f"The key is {primary!r}, made of {self._made_of()}."),
        ]
        if aside is not None:
            steps.append(_told("cache", aside))
            return self._conclude(exchange, primary, steps, [], "bypass", aside)
        looks = [look async for look in self._look(primary, request)]
        selected = self._selected(primary, request, looks)
        steps += self._lookup_steps(primary, request, looks)
        entry = selected.record if selected is not None and isinstance(selected.record, Entry) else None
        stored = [self._variant(look, selected, now) for look in looks if isinstance(look.record, Entry)]
        steps += _directive_steps(request)
        decision = reuse.decide(request, entry.stored if entry is not None else None, now, self._options)
        reason = why_missing(decision.reason, self._marker(looks))
        steps.append(_told("decision", reason))
        key = CacheKey(primary) if selected is None else selected.key
        steps += self._fetch_steps(decision, (key, "Authorization" in request.headers))
        return self._conclude(exchange, primary, steps, stored, _verdict(decision), reason)

    def _conclude(
        self,
        exchange: Exchange,
        primary: str,
        steps: list[Check],
        stored: list[StoredVariant],
        verdict: str,
        reason: Reason,
    ) -> Explanation:
        reasons = [_BY_TOKEN[check.reason] for check in steps if check.reason is not None]
        advice = dict.fromkeys(ADVICE[one] for one in [*reasons, reason] if one in ADVICE and verdict != "hit")
        return Explanation(
            method=exchange.request.method,
            url=exchange.request.url,
            route=exchange.route.name,
            key=primary,
            verdict=verdict,
            reason=reason.token,
            sentence=reason.sentence,
            steps=steps,
            stored=stored,
            advice=list(advice),
        )

    def _made_of(self) -> str:
        parts = ["method, scheme, host and target"]
        if self._rules.ignored_parameters:
            parts.append(f"without the parameters {', '.join(self._rules.ignored_parameters)}")
        if self._rules.sorted_query:
            parts.append("the query sorted by name")
        if self._rules.fields:
            parts.append(f"and the request fields {', '.join(self._rules.fields)}")
        return ", ".join(parts)

    # The store.

    async def _look(self, primary: str, request: Request) -> AsyncIterator[_Look]:
        l1, l2 = self._services.store.l1, self._services.store.l2
        keys = dict.fromkeys([CacheKey(primary), *l1.keys_of_primary(primary)])
        marker: VaryMarker | None = None
        for key in keys:
            record = l1.peek(key)
            if record is not None:
                marker = record if isinstance(record, VaryMarker) else marker
                yield _Look("l1", key, record)
        if l2 is None:
            return
        record = await l2.get(CacheKey(primary))
        if record is not None:
            yield _Look("l2", CacheKey(primary), record)
        marker = record if isinstance(record, VaryMarker) else marker
        if marker is not None:
            key = variant_place(primary, marker, request)
            record = await l2.get(key)
            if record is not None:
                yield _Look("l2", key, record)

    def _selected(self, primary: str, request: Request, looks: list[_Look]) -> _Look | None:
        """What a look-up would come to, L1 first."""
        for tier in ("l1", "l2"):
            here = {look.key: look for look in looks if look.tier == tier}
            first = here.get(CacheKey(primary))
            if first is None:
                continue
            found = (
                here.get(variant_place(primary, first.record, request))
                if isinstance(first.record, VaryMarker)
                else first
            )
            if found is not None and not self._is_void(found):
                return found
        return None

    def _marker(self, looks: list[_Look]) -> VaryMarker | None:
        markers = (look.record for look in looks if isinstance(look.record, VaryMarker) and not self._is_void(look))
        return next(markers, None)

    def _is_void(self, look: _Look) -> bool:
        purge = self._services.invalidations.newest_match(look.key.primary, look.record)
        expired = look.record.discard_at <= self._services.clock.wall()
        return expired or (purge is not None and not purge.soft)

    def _lookup_steps(self, primary: str, request: Request, looks: list[_Look]) -> Iterator[Check]:
        for tier in ("l1", "l2"):
            here = [look for look in looks if look.tier == tier]
            if tier == "l2" and self._services.store.l2 is None:
                yield Check(step="l2", outcome="There is no second tier.")
                continue
            marker = next((look.record for look in here if isinstance(look.record, VaryMarker)), None)
            entries = [look for look in here if isinstance(look.record, Entry)]
            if marker is not None:
                names = ", ".join(marker.names)
                yield Check(
                    step=tier,
                    outcome=f"The resource varies on {names}; {len(entries)} variants are seen here, this request "
                    f"selects {variant_place(primary, marker, request).variant!r}.",
                    clause="RFC 9111 §4.1",
                )
            elif entries:
                yield Check(step=tier, outcome="A response is stored under this key.", clause="RFC 9111 §4")
            else:
                yield Check(step=tier, outcome="Nothing is stored under this key.", clause="RFC 9111 §4")

    def _variant(self, look: _Look, selected: _Look | None, now: float) -> StoredVariant:
        entry = look.record
        assert isinstance(entry, Entry)
        stored = entry.stored
        purge = self._services.invalidations.newest_match(look.key.primary, entry)
        return StoredVariant(
            tier=look.tier,
            variant=look.key.variant,
            selected=look is selected,
            status=stored.status,
            age_seconds=round(current_age(stored, now), 3),
            fresh_for_seconds=round(stored.fresh_until - now, 3),
            usable_stale_for_seconds=round(max(0.0, stored.stale_while_revalidate_until - now), 3),
            usable_on_error_for_seconds=round(max(0.0, stored.stale_if_error_until - now), 3),
            must_validate=stored.must_validate,
            never_stale=stored.never_stale,
            etag=str(stored.etag) if stored.etag is not None else None,
            last_modified=stored.headers.get("Last-Modified"),
            vary=list(stored.vary),
            tags=list(entry.tags),
            hits=self._services.store.l1.uses(look.key) if look.tier == "l1" else None,
            body_bytes=len(entry.body),
            forms={name: len(form) for name, form in entry.forms.items()},
            purged=f"{'soft ' if purge.soft else ''}{purge.scope.value} {purge.value}" if purge is not None else None,
        )

    # The fetch that would follow.

    def _fetch_steps(self, decision: Decision, key: FlightKey) -> Iterator[Check]:
        if isinstance(decision, Hit) and self._settings.early_refresh_beta:
            yield Check(
                step="early refresh",
                outcome="Now and then such a request refreshes it in the background ahead of its time (XFetch): the "
                "likelier, the nearer its end and the slower the origin.",
            )
        if isinstance(decision, Hit | Unsatisfiable):
            return
        now = self._services.clock.monotonic()
        why = self._fetcher.uncacheable.why(key, now)
        if why is not None:
            yield Check(
                step="memory",
                outcome=f"{Reason.RECENTLY_UNCACHEABLE.sentence} It was this: {why.sentence}",
                reason=why.token,
                clause=why.clause or None,
            )
        if self._fetcher.failing.holds(key, now):
            yield Check(step="memory", outcome="The origin failed a moment ago: it is not asked again yet.")
        if self._fetcher.flights.find(key) is not None:
            yield Check(step="flight", outcome="A fetch for this key is under way: the request would wait for it.")


def _told(step: str, reason: Reason) -> Check:
    return Check(step=step, outcome=reason.sentence, reason=reason.token, clause=reason.clause or None)


def _matched_by(exchange: Exchange) -> str:
    route = exchange.route
    rules = [
        f"path {route.path}" if route.path is not None else "",
        f"methods {', '.join(sorted(route.methods))}" if route.methods else "",
        f"hosts {', '.join(route.hosts)}" if route.hosts else "",
    ]
    return ", ".join(filter(None, rules)) or "it takes what no other route does"


def _directive_steps(request: Request) -> Iterator[Check]:
    directives = request_directives(request.headers)
    for name in ("no_cache", "no_store", "only_if_cached", "max_age", "min_fresh", "max_stale"):
        value = getattr(directives, name)
        if value is not None and value is not False:
            shown = name.replace("_", "-") + ("" if value is True else f"={value}")
            yield Check(step="request", outcome=f"The client says {shown}.", clause="RFC 9111 §5.2.1")


def _verdict(decision: Decision) -> str:
    match decision:
        case Hit():
            return "hit"
        case StaleHit():
            return "stale"
        case Revalidate():
            return "revalidate"
        case Miss():
            return "miss"
        case Unsatisfiable():
            return "unsatisfiable"
        case _:
            assert_never(decision)
