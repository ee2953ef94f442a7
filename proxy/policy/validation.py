"""Validation in both directions (RFC 9111 §4.3): our own with the origin, and the client's with us."""

from typing import Final, Literal

from multidict import CIMultiDict, CIMultiDictProxy

from proxy.http.dates import format_date, parse_date
from proxy.http.etag import parse_etag, parse_etags
from proxy.http.headers import combined
from proxy.http.message import Headers, Request, Response, make_headers
from proxy.http.names import ANSWERED_BY_304, RANGE
from proxy.http.ranges import parse_range, partial_response
from proxy.policy.admission import assess
from proxy.policy.directives import governing
from proxy.policy.model import DEFAULT_OPTIONS, PolicyOptions, Stored
from proxy.policy.storing import without_unstorable

_NOT_UPDATED: Final = frozenset({"content-encoding", "content-length", "content-range"})
"""§3.2 excludes Content-Length. The others say how the stored bytes are to be read, and a 304 brings no bytes."""

_NOT_IN_304: Final = frozenset({
    "content-encoding", "content-language", "content-length", "content-md5", "content-range", "content-type",
})  # fmt: skip
"""RFC 9110 §15.4.5."""

_CLIENT_CONDITIONS: Final = (*ANSWERED_BY_304, RANGE)


def conditional_headers(stored: Stored) -> Headers:
    """The preconditions that ask the origin whether `stored` still holds (§4.3.1); empty without a validator."""
    fields: list[tuple[str, str]] = []
    if stored.etag is not None:
        fields.append(("If-None-Match", str(stored.etag)))
    if stored.last_modified is not None:
        fields.append(("If-Modified-Since", stored.headers.get("Last-Modified", format_date(stored.last_modified))))
    return make_headers(fields)


def selects(stored: Stored, not_modified: Response) -> bool:
    """Whether a 304 may freshen `stored` (§4.3.4).

    A 304 without any validator is taken to mean the one response whose validators were sent: §4.3.4 has no rule for it,
    origins that send such a 304 are many, and the condition was ours alone.
    """
    etag = parse_etag(not_modified.headers.get("ETag"))
    if etag is not None:
        if stored.etag is None:
            return False
        return stored.etag.matches_weakly(etag) if etag.weak else stored.etag.matches_strongly(etag)
    modified = parse_date(not_modified.headers.get("Last-Modified"), stored.response_time)
    return modified is None or modified == stored.last_modified


def freshen(
    stored: Stored,
    not_modified: Response,
    *,
    request_time: float,
    response_time: float,
    options: PolicyOptions = DEFAULT_OPTIONS,
) -> Stored:
    """`stored` with the fields of a 304, or of a HEAD response that agrees (§3.2, §4.3.4, §4.3.5). Idempotent.

    What the new fields forbid holds: after `no-store` or `private` nothing can use the result any more.
    """
    update = not_modified.headers
    directives = governing(update, options.targets).directives
    provided = [
        (name, value)
        for name, value in without_unstorable(update, directives, options).items()
        if name.lower() not in _NOT_UPDATED
    ]
    merged = CIMultiDict(stored.headers)
    for name, _ in provided:
        merged.popall(name, None)
    merged.extend(provided)
    if parse_date(update.get("Date"), response_time) is None:
        merged["Date"] = format_date(response_time)
    if "Age" in update:
        merged["Age"] = update["Age"]
    return assess(
        stored.method,
        Response(stored.status, CIMultiDictProxy(merged), b"", stored.reason_phrase),
        request_time=request_time,
        response_time=response_time,
        body_length=stored.body_length,
        options=options,
        no_default_ttl=stored.no_default_ttl,
    )


def head_agrees(stored: Stored, head_response: Response) -> bool:
    """Whether a 200 to HEAD matches the stored response to GET, so that it may freshen it (§4.3.5)."""
    headers = head_response.headers
    if "ETag" in headers and parse_etag(headers["ETag"]) != stored.etag:
        return False
    if "Last-Modified" in headers:
        modified = parse_date(headers["Last-Modified"], stored.response_time)
        if modified != stored.last_modified:
            return False
    length = combined(headers, "Content-Length")
    complete = stored.content_range[2] if stored.content_range is not None else stored.body_length
    return length is None or complete is None or length.strip() == str(complete)


# The client's conditions.


def answer_conditional(request: Request, stored: Stored) -> Literal[304] | None:
    """304 when the client's own copy is as good as `stored`; None when it gets the response itself (§4.3.2).

    If-Match and If-Unmodified-Since are the origin's to judge: a cache never answers 412.
    """
    headers = request.headers
    if not 200 <= stored.status <= 299 or request.method not in {"GET", "HEAD"}:
        return None  # RFC 9110 §13.2.1
    lines = headers.getall("If-None-Match", None)
    if lines is not None:
        tags = parse_etags(lines)
        if tags is None:
            return 304
        own = stored.etag
        return 304 if own is not None and any(tag.matches_weakly(own) for tag in tags) else None
    since = headers.getall("If-Modified-Since", ())
    if len(since) != 1:
        return None
    wanted = parse_date(since[0], stored.response_time)
    if wanted is None:
        return None
    modified = stored.last_modified if stored.last_modified is not None else stored.date
    return 304 if (stored.response_time if modified is None else modified) <= wanted else None


def if_range_holds(request: Request, stored: Stored) -> bool:
    """Whether `If-Range` lets the Range of `request` count: absent, or a strong validator that is ours
    (RFC 9110 §13.1.5).
    """
    value = combined(request.headers, "If-Range")
    if value is None:
        return True
    tag = parse_etag(value)
    if tag is not None:
        return stored.etag is not None and stored.etag.matches_strongly(tag)
    date = parse_date(value, stored.response_time)
    if date is None or stored.last_modified is None or stored.date is None:
        return False
    # RFC 9110 §8.8.2.2: a Last-Modified is strong when the response is from at least a second later.
    return date == stored.last_modified and stored.date - stored.last_modified >= 1


def answer(request: Request, stored: Stored, full: Response) -> Response:
    """The response to `request` made of a stored one: `full`, or 304, 206, 416 as the request's conditions say.

    Args:
        full: the stored response as it would be sent; a body that is still a stream serves no ranges.
    """
    headers = request.headers
    if not any(name in headers for name in _CLIENT_CONDITIONS):
        return full
    if answer_conditional(request, stored) == 304:
        kept = _not_modified_headers(full.headers)
        return Response(304, kept, b"")
    if request.method != "GET" or stored.status not in {200, 206} or not isinstance(full.body, bytes):
        return full
    specs = parse_range(combined(headers, "Range"))
    if specs is None or not if_range_holds(request, stored):
        return full
    return partial_response(full, full.body, specs, stored.content_range)


def _not_modified_headers(headers: Headers) -> Headers:
    left_out = _NOT_IN_304 | {"last-modified"} if "ETag" in headers else _NOT_IN_304
    return make_headers((name, value) for name, value in headers.items() if name.lower() not in left_out)
