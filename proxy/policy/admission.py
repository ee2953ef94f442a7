"""From a response to a `Stored`: every field that a later decision needs is read here, once."""

from dataclasses import replace

from multidict import CIMultiDict, CIMultiDictProxy

from proxy.http.dates import format_date, parse_date
from proxy.http.etag import parse_etag
from proxy.http.message import Request, Response
from proxy.http.ranges import parse_content_range
from proxy.policy.deception import agrees_with_path
from proxy.policy.directives import governing
from proxy.policy.freshness import initial_age, lifetime
from proxy.policy.model import DEFAULT_OPTIONS, PolicyOptions, Stored
from proxy.policy.storing import demands_validation, without_unstorable
from proxy.policy.vary import vary_names


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
    directives = governed.directives
    life = lifetime(response, received=response_time, options=options, governed=governed)
    age = initial_age(response.headers, request_time=request_time, response_time=response_time)
    names = vary_names(response.headers)
    forbidden = (directives.no_store and not directives.must_understand) or directives.private or names is None
    must_validate = forbidden or demands_validation(directives)
    never_stale = (
        must_validate
        or directives.must_revalidate
        or directives.proxy_revalidate
        or directives.s_maxage is not None  # §5.2.2.10: it implies proxy-revalidate
    )
    fresh_until = response_time + life.seconds - age
    while_revalidate = (
        0.0 if never_stale else _window(directives.stale_while_revalidate, options.stale_while_revalidate)
    )
    if_error = 0.0 if never_stale else _window(directives.stale_if_error, options.stale_if_error)
    kept = without_unstorable(response.headers, directives, options)
    date = parse_date(kept.get("Date"), response_time)
    if date is None:
        # RFC 9110 §6.6.1: a recipient with a clock adds what is missing, and may replace what is no date.
        dated = CIMultiDict(kept)
        dated["Date"] = format_date(response_time)
        kept, date = CIMultiDictProxy(dated), float(response_time // 1)
    return Stored(
        method=method,
        status=response.status,
        headers=kept,
        request_time=request_time,
        response_time=response_time,
        initial_age=age,
        fresh_until=fresh_until,
        stale_while_revalidate_until=fresh_until + while_revalidate,
        stale_if_error_until=fresh_until + if_error,
        reason_phrase=response.reason,
        must_validate=must_validate,
        never_stale=never_stale,
        immutable=directives.immutable,
        etag=None if forbidden else parse_etag(kept.get("ETag")),
        last_modified=None if forbidden else parse_date(kept.get("Last-Modified"), response_time),
        date=date,
        vary=names or (),
        body_length=body_length,
        content_range=parse_content_range(kept.get("Content-Range")) if response.status == 206 else None,
        no_default_ttl=no_default_ttl,
    )


def _window(directive: int | None, default: float) -> float:
    return default if directive is None else float(directive)
