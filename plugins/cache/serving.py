"""From a stored response to what a client gets: its conditions, its ranges, the age."""

from typing import Final

from multidict import CIMultiDictProxy, istr

from proxy.http.body import Body
from proxy.http.message import Headers, Request, Response
from proxy.policy.freshness import current_age
from proxy.policy.model import Stored
from proxy.policy.validation import answer

_AGE: Final = istr("Age")


def aged_headers(stored: Stored, now: float) -> Headers:
    """The stored fields with the `Age` of `now`, wall seconds (RFC 9111 §5.1)."""
    headers = stored.headers.copy()
    headers[_AGE] = str(max(0, int(current_age(stored, now))))
    return CIMultiDictProxy(headers)


def respond(request: Request, stored: Stored, headers: Headers, body: Body) -> Response:
    """The response to `request` made from a stored one: itself, or 304, 206, 416 as the request's conditions say.

    Args:
        headers: of the full response.
        body: all of it; a stream when it is still arriving, which serves no ranges.
    """
    return answer(request, stored, Response(stored.status, headers, body, stored.reason_phrase))
