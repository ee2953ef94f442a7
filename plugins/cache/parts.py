"""Parts: which requests are fetched as a part, and what becomes of a part beside what is stored (RFC 9111 §3.3, §3.4).

A Range request that nothing stored answers is sent on with its Range, and shared with requests for the very same range
that come meanwhile. It does not wait for a fetch of the whole that may be under way: the part may be ready long before.
"""

from dataclasses import replace

from proxy.http.headers import combined
from proxy.http.message import Request, Response
from proxy.http.names import RANGE
from proxy.http.ranges import covers, parse_range
from proxy.policy import reuse, validation
from proxy.policy.combining import combine
from proxy.policy.model import PolicyOptions, Stored
from proxy.storage.base import Entry, Record


def wanted_part(request: Request) -> str | None:
    """What requests for the same part have in common; None where the request is not for exactly one range of bytes.

    Several ranges come back as multipart, which is not taken apart here: such requests go to the origin alone.
    """
    if RANGE not in request.headers or request.method != "GET":
        return None
    specs = parse_range(combined(request.headers, RANGE))
    if specs is None or len(specs) != 1:
        return None
    return f"{specs[0].first}-{specs[0].last} {combined(request.headers, 'If-Range')}"


def answers(request: Request, stored: Stored) -> bool:
    """Whether `stored` holds all that `request` asks for."""
    if stored.content_range is None:
        return True
    specs = parse_range(combined(request.headers, "Range"))
    return specs is not None and covers(specs, stored.content_range) and validation.if_range_holds(request, stored)


def is_whole_part(stored: Stored, body_length: int) -> bool:
    """Whether `body_length` bytes are all that the Content-Range of a part promised; True of what is no part."""
    held = stored.content_range
    return held is None or body_length == held[1] - held[0] + 1


def beside(held: Record | None, part: Entry, response: Response, *, max_bytes: int, options: PolicyOptions) -> Entry:
    """What to store when `part` came and `held` is stored in its place: both as one if they belong together, else the
    one that is worth more. A complete response is never displaced by a part.
    """
    if not isinstance(held, Entry):
        return part
    if held.stored.content_range is None:
        return held
    together = combine(
        held.stored,
        held.body,
        response,
        part.body,
        request_time=part.stored.request_time,
        response_time=part.stored.response_time,
        options=options,
    )
    if together is None or len(together[1]) > max_bytes:
        return part
    stored, body = together
    return replace(
        part,
        stored=stored,
        body=body,
        purge_id=min(held.purge_id, part.purge_id),  # a purge since the older bytes came voids the whole
        discard_at=reuse.discard_at(stored),
        tags=tuple(dict.fromkeys((*held.tags, *part.tags))),
    )
