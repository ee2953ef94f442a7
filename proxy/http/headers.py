"""Header fields as such: which of them end at the next hop, how their lines combine, how lists are read, and `Via`."""

from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

from proxy.http.message import Headers
from proxy.http.names import CONNECTION, VIA

HOP_BY_HOP: Final = frozenset({
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
"""Removed before forwarding whether `Connection` names them or not (RFC 9110 §7.6.1). `Trailer` announces what the
framing of one message carries."""

PROXY_FIELDS: Final = frozenset({"proxy-authenticate", "proxy-authentication-info", "proxy-authorization"})
"""For the next proxy alone (RFC 9110 §11.7, RFC 9111 §3.1)."""


def combined(headers: Headers, name: str) -> str | None:
    """The field's lines as one value (RFC 9110 §5.3); None when it is absent."""
    lines = headers.getall(name, None)
    if lines is None:
        return None
    return lines[0] if len(lines) == 1 else ", ".join(lines)


def split_list(value: str) -> list[str]:
    """The members of a comma-separated list, without white space around them and without empty ones (RFC 9110 §5.6.1).

    A comma inside a quoted string parts nothing; a quoted string that does not end takes the rest.
    """
    if '"' not in value:
        return [part for part in (piece.strip(" \t") for piece in value.split(",")) if part]
    members: list[str] = []
    start = place = 0
    quoted = False
    while place < len(value):
        char = value[place]
        if quoted and char == "\\":
            place += 1
        elif char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            members.append(value[start:place])
            start = place + 1
        place += 1
    members.append(value[start:])
    return [part for part in (member.strip(" \t") for member in members) if part]


def connection_options(headers: Headers) -> frozenset[str]:
    """The lower-case members of `Connection`: names of fields that end here, `close`, `keep-alive`."""
    lines = headers.getall(CONNECTION, None)
    if lines is None:
        return frozenset()
    return frozenset(option.lower() for line in lines for option in split_list(line))


def end_to_end(headers: Headers) -> Headers:
    """Without the fields that end at this hop: hop-by-hop ones and those that `Connection` names."""
    ended = HOP_BY_HOP | connection_options(headers)
    if not any(name.lower() in ended for name in headers):
        return headers
    return CIMultiDictProxy(CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in ended))


def accepts_trailers(headers: Headers) -> bool:
    """Whether the sender takes trailer fields: `TE` has the member `trailers` (RFC 9110 §6.5.1, §10.1.4).

    To be asked before `end_to_end`, which drops `TE`: it speaks for one hop, and only whoever passes trailers on may
    say it again.
    """
    value = combined(headers, "TE")
    return value is not None and any(member.lower() == "trailers" for member in split_list(value))


def via(headers: Headers, version: tuple[int, int], pseudonym: str) -> str:
    """The `Via` value to send on: what was received, and this hop behind it (RFC 9110 §7.6.3).

    Args:
        version: of the message as received.
        pseudonym: a token that names this proxy.
    """
    hop = f"{version[0]}.{version[1]} {pseudonym}"
    before = combined(headers, VIA)
    return f"{before}, {hop}" if before else hop
