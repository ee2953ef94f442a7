"""Whether a stored response answers a request (RFC 9111 §4), and for how long anything could use it.

`decide` parses no stored field, and no request field unless the request has Cache-Control, Pragma or Range.
"""

from math import log
from typing import Final

from proxy.http.cache_control import NO_REQUEST_DIRECTIVES, RequestDirectives, request_directives
from proxy.http.headers import combined
from proxy.http.message import Request
from proxy.http.ranges import covers, parse_range
from proxy.policy.admission import admit
from proxy.policy.freshness import current_age
from proxy.policy.model import (
    DEFAULT_OPTIONS,
    Decision,
    Hit,
    Miss,
    PolicyOptions,
    Revalidate,
    StaleHit,
    Stored,
    Unsatisfiable,
)
from proxy.policy.reasons import Reason
from proxy.policy.validation import if_range_holds

__all__ = ("admit", "decide", "discard_at", "kept_seconds", "refreshes_early", "refuses_earlier", "usable_on_error")

KEPT_FOR_VALIDATION_SECONDS: Final = 86_400.0
"""How long past its last use by itself a response with a validator is kept: a 304 is cheaper than a full response."""


def decide(request: Request, stored: Stored | None, now: float, options: PolicyOptions = DEFAULT_OPTIONS) -> Decision:
    """What to do for `request` with what is stored for it.

    Args:
        stored: selected by key and Vary; None when there is nothing.
        now: wall seconds.
    """
    directives = _directives(request)
    if stored is None:
        return _forward(Miss(Reason.NOTHING_STORED), directives, options)
    mismatch = _mismatch(request, stored)
    if mismatch is not None:
        return _forward(Miss(mismatch), directives, options)
    age, ttl = current_age(stored, now), stored.fresh_until - now
    if directives is not NO_REQUEST_DIRECTIVES or stored.must_validate:
        reason = _demands_validation(directives, stored, age, ttl, options)
        if reason is not None:
            return _forward(Revalidate(reason, age, ttl), directives, options)
    if ttl > 0:
        return Hit(Reason.FRESH, age, ttl)
    if stored.never_stale:
        return _forward(Revalidate(Reason.MUST_REVALIDATE, age, ttl), directives, options)
    if options.honour_max_stale and directives.max_stale is not None and -ttl <= directives.max_stale:
        return StaleHit(Reason.REQUEST_MAX_STALE, age, ttl, refresh=False)
    if now < stored.stale_while_revalidate_until and not _wants_fresh(directives, options):
        return StaleHit(Reason.STALE_WHILE_REVALIDATE, age, ttl, refresh=True)
    reason = Reason.SOFT_PURGED if stored.softened else Reason.STALE
    return _forward(Revalidate(reason, age, ttl), directives, options)


def answers_plainly(stored: Stored) -> bool:
    """Whether a GET without directives, conditions or ranges gets `stored` whenever it is fresh, whoever sends it."""
    return stored.method == "GET" and not stored.must_validate and not stored.vary and stored.content_range is None


def _directives(request: Request) -> RequestDirectives:
    headers = request.headers
    if "Cache-Control" in headers or "Pragma" in headers:
        return request_directives(headers)
    return NO_REQUEST_DIRECTIVES


def _forward(decision: Miss | Revalidate, directives: RequestDirectives, options: PolicyOptions) -> Decision:
    """`decision`, unless the client forbids to ask the origin (§5.2.1.7)."""
    if directives.only_if_cached and options.honour_only_if_cached:
        return Unsatisfiable(Reason.ONLY_IF_CACHED)
    return decision


def _mismatch(request: Request, stored: Stored) -> Reason | None:
    """Why `stored` cannot answer `request` however fresh it is."""
    if stored.method != request.method and not (request.method == "HEAD" and stored.method == "GET"):
        return Reason.OTHER_METHOD
    if stored.content_range is not None:
        specs = parse_range(combined(request.headers, "Range")) if request.method == "GET" else None
        if specs is None or not covers(specs, stored.content_range) or not if_range_holds(request, stored):
            return Reason.PARTIAL
    return None


def _demands_validation(
    directives: RequestDirectives, stored: Stored, age: float, ttl: float, options: PolicyOptions
) -> Reason | None:
    """Why even a fresh response needs validation first (§5.2.1, §5.2.2.4)."""
    if stored.must_validate:
        return Reason.NO_CACHE
    if _refuses_stored(directives, options):
        return Reason.REQUEST_PRAGMA if directives.pragma else Reason.REQUEST_NO_CACHE
    if options.honour_max_age and directives.max_age is not None and age > directives.max_age:
        return Reason.REQUEST_MAX_AGE
    # A stale response is judged by its staleness, not by how long it is not fresh any more.
    if options.honour_min_fresh and directives.min_fresh is not None and 0 < ttl < directives.min_fresh:
        return Reason.REQUEST_MIN_FRESH
    return None


def _refuses_stored(directives: RequestDirectives, options: PolicyOptions) -> bool:
    return directives.no_cache and (options.honour_pragma if directives.pragma else options.honour_no_cache)


def _wants_fresh(directives: RequestDirectives, options: PolicyOptions) -> bool:
    """A client that says max-age or min-fresh, and nothing of max-stale, takes no stale response (§5.2.1.1)."""
    return (options.honour_max_age and directives.max_age is not None) or (
        options.honour_min_fresh and directives.min_fresh is not None
    )


def refuses_earlier(request: Request, options: PolicyOptions = DEFAULT_OPTIONS) -> bool:
    """Whether the client takes nothing that the origin said before it was asked: no-cache (§5.2.1.4), Pragma (§5.4)."""
    return _refuses_stored(_directives(request), options)


def usable_on_error(request: Request, stored: Stored, now: float, options: PolicyOptions = DEFAULT_OPTIONS) -> bool:
    """Whether `stored` may answer `request` in place of an error of the origin (RFC 5861 §4, RFC 9111 §4.2.4)."""
    directives = _directives(request)
    if stored.must_validate or _mismatch(request, stored) is not None or _refuses_stored(directives, options):
        return False
    staleness = now - stored.fresh_until
    if staleness < 0:
        return True
    if stored.never_stale:
        return False
    if now < stored.stale_if_error_until:
        return True
    allowed = directives.stale_if_error if options.honour_stale_if_error else None
    return allowed is not None and staleness <= allowed


def discard_at(stored: Stored) -> float:
    """Wall seconds after which nothing can use `stored` any more, fresh, stale or to be validated."""
    if stored.must_validate:
        return stored.response_time + kept_seconds(stored)
    last_use = max(stored.fresh_until, stored.stale_while_revalidate_until, stored.stale_if_error_until)
    return max(last_use, stored.response_time) + kept_seconds(stored)


def kept_seconds(stored: Stored) -> float:
    """How long past its last use by itself `stored` is kept, to be validated."""
    has_validator = stored.etag is not None or stored.last_modified is not None
    return KEPT_FOR_VALIDATION_SECONDS if has_validator else 0.0


def refreshes_early(stored: Stored, now: float, *, beta: float, draw: float) -> bool:
    """Whether this request is the one that refreshes a fresh response ahead of its expiry (XFetch, VLDB 2015).

    The nearer the expiry and the slower the origin, the likelier; so one of many requests does it, not all at once.

    Args:
        beta: 1 is the optimum of the paper; more refreshes earlier; 0 never.
        draw: a random number from (0, 1].
    """
    delta = max(0.0, stored.response_time - stored.request_time)
    return now < stored.fresh_until <= now - delta * beta * log(draw)
