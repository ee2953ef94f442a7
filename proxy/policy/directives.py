"""Which field's directives govern a response: the first valid targeted one, else Cache-Control (RFC 9213 §2.2)."""

from proxy.http.cache_control import ResponseDirectives, response_directives, targeted_directives
from proxy.http.message import Headers
from proxy.values import value


@value
class Governing:
    """The directives that count.

    Attributes:
        field: the targeted field they come from; empty for Cache-Control. With a targeted one, Expires does not count.
    """

    directives: ResponseDirectives
    field: str = ""


def governing(headers: Headers, targets: tuple[str, ...]) -> Governing:
    """The directives of a response for a cache with this target list."""
    for name in targets:
        if name in headers:
            directives = targeted_directives(headers, name)
            if directives is not None:
                return Governing(directives, name)
    return Governing(response_directives(headers))
