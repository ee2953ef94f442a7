"""Requests, responses and stored responses in few words."""

from proxy.http.dates import format_date
from proxy.http.message import Request, Response, make_headers
from proxy.policy.model import DEFAULT_OPTIONS, PolicyOptions, Stored
from proxy.policy.reuse import admit

NOW = 1_700_000_000.0


def date(seconds: float) -> str:
    """An HTTP-date that many seconds after `NOW`."""
    return format_date(NOW + seconds)


def ask(method: str = "GET", target: str = "/a", body: bytes = b"", **fields: str) -> Request:
    """A request; `X_Foo` is the field `X-Foo`."""
    return Request(method, target, "https", "example.com", make_headers(_pairs(fields)), body)


def reply(status: int = 200, *pairs: tuple[str, str], **fields: str) -> Response:
    """A response; pairs for fields on several lines."""
    return Response(status, make_headers([*_pairs(fields), *pairs]), b"", "Reason")


def ask_with(fields: dict[str, str]) -> Request:
    """A GET request with these fields."""
    return Request("GET", "/a", "https", "example.com", make_headers(_pairs(fields)))


def reply_with(fields: dict[str, str], status: int = 200) -> Response:
    """A response with these fields."""
    return Response(status, make_headers(_pairs(fields)), b"", "Reason")


def _pairs(fields: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.replace("_", "-"), value) for name, value in fields.items()]


def keep(
    response: Response,
    request: Request | None = None,
    *,
    delay: float = 0.0,
    body_length: int = 10,
    options: PolicyOptions = DEFAULT_OPTIONS,
) -> Stored:
    """`response` as stored at `NOW`, requested `delay` seconds before."""
    return admit(
        request or ask(),
        response,
        request_time=NOW - delay,
        response_time=NOW,
        body_length=body_length,
        options=options,
    )
