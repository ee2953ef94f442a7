"""Parts of one representation as one (RFC 9111 §3.4, RFC 9110 §15.3.7.3)."""

from dataclasses import replace

from multidict import CIMultiDict, CIMultiDictProxy

from proxy.http.etag import parse_etag
from proxy.http.message import Response
from proxy.http.ranges import ByteRange, format_content_range, parse_content_range
from proxy.policy.model import DEFAULT_OPTIONS, PolicyOptions, Stored
from proxy.policy.validation import freshen


def combine(
    stored: Stored,
    body: bytes,
    response: Response,
    part: bytes,
    *,
    request_time: float,
    response_time: float,
    options: PolicyOptions = DEFAULT_OPTIONS,
) -> tuple[Stored, bytes] | None:
    """A stored part and a new 206 as one longer part, or as the complete response when nothing is missing.

    Args:
        body: the stored part's bytes.
        part: the new response's bytes, complete.
        request_time, response_time: wall seconds of the new response.

    Returns:
        None when they do not belong together: no strong validator in common (§3.4), lengths that contradict each other,
        or a gap between them.
    """
    held, new = stored.content_range, parse_content_range(response.headers.get("Content-Range"))
    etag = parse_etag(response.headers.get("ETag"))
    if held is None or new is None or response.status != 206:
        return None
    if stored.etag is None or etag is None or not stored.etag.matches_strongly(etag):
        return None
    if len(body) != held[1] - held[0] + 1 or len(part) != new[1] - new[0] + 1:
        return None
    if held[2] is not None and new[2] is not None and held[2] != new[2]:
        return None
    if new[0] > held[1] + 1 or held[0] > new[1] + 1:
        return None
    complete = held[2] if held[2] is not None else new[2]
    span = ByteRange(min(held[0], new[0]), max(held[1], new[1]))
    if complete is not None and span.last >= complete:
        return None
    joined = _join(span, (held[0], body), (new[0], part))
    fresh = freshen(stored, response, request_time=request_time, response_time=response_time, options=options)
    whole = span.length == complete
    headers = CIMultiDict(fresh.headers)
    headers["Content-Length"] = str(len(joined))
    headers.popall("Content-Range", None)
    if not whole:
        headers["Content-Range"] = format_content_range(span, complete)
    combined = replace(
        fresh,
        status=200 if whole else 206,
        reason_phrase="",
        headers=CIMultiDictProxy(headers),
        body_length=len(joined),
        content_range=None if whole else (span.first, span.last, complete),
    )
    return combined, joined


def _join(span: ByteRange, *parts: tuple[int, bytes]) -> bytes:
    """The bytes of `span`, which `parts`, each with the place of its first byte, cover."""
    joined = bytearray(span.length)
    for first, content in parts:
        joined[first - span.first : first - span.first + len(content)] = content
    return bytes(joined)
