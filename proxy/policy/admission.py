"""From a response to a `Stored`: every field that a later decision needs is read here, once."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

from proxy.http.cache_control import ResponseDirectives
from proxy.http.dates import format_date, parse_date
from proxy.http.etag import parse_etag
from proxy.http.message import Headers, Request, Response
from proxy.http.ranges import parse_content_range
from proxy.policy.deception import agrees_with_path
from proxy.policy.directives import governing
from proxy.policy.freshness import initial_age, lifetime
from proxy.policy.model import DEFAULT_OPTIONS, PolicyOptions, Stored
from proxy.policy.storing import demands_validation, forbid_storing, without_unstorable
from proxy.policy.vary import vary_names
from proxy.values import value

_MISLEADING: Final = frozenset({"age", "connection", "set-cookie"})
"""Fields of a response that say which others are kept, or what an own value means."""


def admit(
    request: Request,
    response: Response,
    *,
    request_time: float,
    response_time: float,
    body_length: int,
    options: PolicyOptions = DEFAULT_OPTIONS,
) -> Stored:
    """The stored form of a response that may be stored.

    Args:
        request_time, response_time: wall seconds when the request was sent and the response's head arrived.
        body_length: in bytes.
    """
    return assess(
        request.method,
        response,
        request_time=request_time,
        response_time=response_time,
        body_length=body_length,
        options=options,
        no_default_ttl=not agrees_with_path(request, response),
    )


def assess(
    method: str,
    response: Response,
    *,
    request_time: float,
    response_time: float,
    body_length: int,
    options: PolicyOptions,
    no_default_ttl: bool = False,
) -> Stored:
    """Read everything that decisions need. A response that may not be stored at all comes out as one that nothing can
    use: that is how a 304 with `no-store` takes back what it confirms.
    """
    if no_default_ttl and options.default_ttl is not None:
        options = replace(options, default_ttl=None)
    governed = governing(response.headers, options.targets)
    life = lifetime(response, received=response_time, options=options, governed=governed)
    return _stored(
        _assessment(method, response, governed.directives, life.seconds, options),
        without_unstorable(response.headers, governed.directives, options),
        initial_age(response.headers, request_time=request_time, response_time=response_time),
        request_time=request_time,
        response_time=response_time,
        body_length=body_length,
        no_default_ttl=no_default_ttl,
    )


@value
class Assessment:
    """What a response's directives and status say, whenever it came.

    Attributes:
        lifetime, while_revalidate, if_error: seconds.
        forbidden: nobody may use what is stored of it.
    """

    method: str
    status: int
    reason_phrase: str
    lifetime: float
    while_revalidate: float
    if_error: float
    forbidden: bool
    must_validate: bool
    never_stale: bool
    immutable: bool
    vary: tuple[str, ...]


def _assessment(
    method: str, response: Response, directives: ResponseDirectives, lifetime_seconds: float, options: PolicyOptions
) -> Assessment:
    names = vary_names(response.headers)
    forbidden = forbid_storing(directives) or names is None
    must_validate = forbidden or demands_validation(directives)
    never_stale = (
        must_validate
        or directives.must_revalidate
        or directives.proxy_revalidate
        or directives.s_maxage is not None  # §5.2.2.10: it implies proxy-revalidate
    )
    windows = (
        (directives.stale_while_revalidate, options.stale_while_revalidate),
        (
            directives.stale_if_error,
            options.stale_if_error,
        ),
    )
    while_revalidate, if_error = (0.0 if never_stale else _window(*window) for window in windows)
    return Assessment(
        method,
        response.status,
        response.reason,
        lifetime_seconds,
        while_revalidate,
        if_error,
        forbidden,
        must_validate,
        never_stale,
        directives.immutable,
        names or (),
    )


def _stored(
    said: Assessment,
    kept: Headers,
    age: float,
    *,
    request_time: float,
    response_time: float,
    body_length: int,
    no_default_ttl: bool,
) -> Stored:
    fresh_until = response_time + said.lifetime - age
    date = parse_date(kept.get("Date"), response_time)
    if date is None:
        # RFC 9110 §6.6.1: a recipient with a clock adds what is missing, and may replace what is no date.
        dated = CIMultiDict(kept)
        dated["Date"] = format_date(response_time)
        kept, date = CIMultiDictProxy(dated), float(response_time // 1)
    return Stored(
        method=said.method,
        status=said.status,
        headers=kept,
        request_time=request_time,
        response_time=response_time,
        initial_age=age,
        fresh_until=fresh_until,
        stale_while_revalidate_until=fresh_until + said.while_revalidate,
        stale_if_error_until=fresh_until + said.if_error,
        reason_phrase=said.reason_phrase,
        must_validate=said.must_validate,
        never_stale=said.never_stale,
        immutable=said.immutable,
        etag=None if said.forbidden else parse_etag(kept.get("ETag")),
        last_modified=None if said.forbidden else parse_date(kept.get("Last-Modified"), response_time),
        date=date,
        vary=said.vary,
        body_length=body_length,
        content_range=parse_content_range(kept.get("Content-Range")) if said.status == 206 else None,
        no_default_ttl=no_default_ttl,
    )


@value
class Pattern:
    """A stored response as the pattern of others: see `pattern_of`."""

    said: Assessment
    headers: Headers


def pattern_of(response: Response, stored: Stored, options: PolicyOptions = DEFAULT_OPTIONS) -> Pattern | None:
    """What may be stored of responses to GET that differ from `response`, whole and without a range, in the values of
    `OWN_FIELDS` alone.

    Args:
        stored: of `response`, as `admit` made it after `may_store` had allowed it.

    Returns:
        None where that depends on one of these values: when the lifetime is not said in seconds, or the age is said.
    """
    headers = response.headers
    governed = governing(headers, options.targets)
    directives = governed.directives
    if directives.max_age is None and directives.s_maxage is None:
        return None
    if not _MISLEADING.isdisjoint(map(str.lower, headers)):
        return None
    if stored.method != "GET" or stored.status == 206 or stored.vary or "Date" not in stored.headers:
        return None
    if stored.must_validate:  # it is of use only with a validator that is one
        return None
    life = lifetime(response, received=stored.response_time, options=options, governed=governed)
    if life.seconds <= 0 or not life.explicit:
        return None
    return Pattern(_assessment(stored.method, response, directives, life.seconds, options), stored.headers)


def admit_alike(
    pattern: Pattern,
    own: Iterable[tuple[str, str]],
    *,
    request_time: float,
    response_time: float,
    body_length: int,
    no_default_ttl: bool,
) -> Stored:
    """What `admit` would make of a response that differs from the one that `pattern` is of in the values `own` alone.

    Args:
        own: names and values; of fields that the pattern has.
        no_default_ttl: see `Stored`.
    """
    changed = pattern.headers.copy()
    for name, text in own:
        changed[name] = text
    kept = CIMultiDictProxy(changed)
    age = initial_age(kept, request_time=request_time, response_time=response_time)
    return _stored(
        pattern.said,
        kept,
        age,
        request_time=request_time,
        response_time=response_time,
        body_length=body_length,
        no_default_ttl=no_default_ttl,
    )


def _window(directive: int | None, default: float) -> float:
    return default if directive is None else float(directive)
