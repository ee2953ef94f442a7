"""Heads on the upstream's side: a request's written, a response's read, each in one pass over its fields.

Names repeat from message to message. What is made of a name (whether its line ends here, how it begins on the wire,
the `istr` that a multidict need not fold again) is remembered, for a bounded number of short names: a peer that makes
names up gains nothing but the ordinary price.
"""

import re
from collections.abc import Sequence
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy, istr

from proxy.errors import ClientError
from proxy.http.headers import HOP_BY_HOP, connection_options
from proxy.http.message import NO_HEADERS, Headers, Request, from_wire, make_headers, to_wire

BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "QUERY"})
"""Methods whose requests say `Content-Length: 0` when they have no body (RFC 9110 §8.6)."""

_LENGTH_DIGITS: Final = 18
_OURS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "keep-alive"})
_KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SAFE_TARGET: Final = re.compile(r"[^\0-\x20\x7f]+")

_MOST_NAMES: Final = 1024
_LONGEST_NAME: Final = 64


def declared_length(request: Request) -> int | None:
    """What the client said of the length of a streamed body; None: nothing that counts."""
    length = request.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) <= _LENGTH_DIGITS else None


class _LineStarts(dict[str, str]):
    """How the line of a field with this name begins; empty for one that is not sent on."""

    def __missing__(self, name: str) -> str:
        if not _TOKEN.fullmatch(name):
            raise ClientError("a header field of the request cannot be sent on")
        start = "" if name.lower() in _OURS else f"\r\n{name}: "
        if len(name) <= _LONGEST_NAME:
            if len(self) >= _MOST_NAMES:
                self.clear()
            self[str(name)] = start
        return start


_ENDED: Final = istr("ended")
_CONNECTION: Final = istr("connection")


class _Names(dict[bytes, istr]):
    """A response's field name as a multidict takes it; `_CONNECTION` and `_ENDED` for what ends at this hop."""

    def __missing__(self, raw: bytes) -> istr:
        name = istr(from_wire(raw))
        folded = name.lower()
        if folded in HOP_BY_HOP:
            name = _CONNECTION if folded == "connection" else _ENDED
        if len(raw) <= _LONGEST_NAME:
            if len(self) >= _MOST_NAMES:
                self.clear()
            self[raw] = name
        return name


_KEEP_ALIVE: Final = [(_CONNECTION, "keep-alive")]
_line_starts: Final = _LineStarts()
_names: Final = _Names()


def request_head(request: Request, host: str, protocol: str) -> bytes:
    """The request's head as bytes.

    Args:
        host: for the `Host` field.
        protocol: to switch to; empty for other requests.

    Raises:
        ClientError: the request cannot be written without becoming two.
    """
    method, target, body = request.method, request.target, request.body
    if method not in _KNOWN_METHODS and not _TOKEN.fullmatch(method):
        raise ClientError("the request's method cannot be sent on")
    plain = target.isascii() and target.isprintable() and " " not in target and target
    if not plain and not _SAFE_TARGET.fullmatch(target):
        raise ClientError("the request's target cannot be sent on")
    parts = [f"{method} {target} HTTP/1.1\r\nHost: ", host]
    starts = _line_starts
    for name, value in request.headers.items():
        start = starts[name]
        if start:
            parts.append(start)
            parts.append(value)
    if protocol:
        parts += ["\r\nConnection: Upgrade\r\nUpgrade: ", protocol]
    values = "".join(parts[1::2])
    if "\r" in values or "\n" in values or "\0" in values:
        raise ClientError("a header field of the request cannot be sent on")
    if not isinstance(body, bytes):
        length = declared_length(request)
        parts.append("\r\nTransfer-Encoding: chunked" if length is None else f"\r\nContent-Length: {length}")
    elif body or method in BODY_METHODS:
        parts.append(f"\r\nContent-Length: {len(body)}")
    parts.append("\r\n\r\n")
    return to_wire("".join(parts))


def response_fields(names: Sequence[bytes], values: Sequence[bytes]) -> Headers:
    """The fields of a response without those that end at this hop: see `proxy.http.headers.end_to_end`."""
    if not names:
        return NO_HEADERS
    known = _names
    # One decoding for all values: a line feed stands in none of them, for the parser takes it for the line's end.
    pairs = list(zip([known[raw] for raw in names], from_wire(b"\n".join(values)).split("\n"), strict=True))
    kept = [pair for pair in pairs if pair[0] is not _CONNECTION and pair[0] is not _ENDED]
    if len(kept) < len(pairs):
        lines = [pair for pair in pairs if pair[0] is _CONNECTION]
        if lines and lines != _KEEP_ALIVE:
            named = connection_options(make_headers(lines))
            kept = [pair for pair in kept if pair[0].lower() not in named]
    return CIMultiDictProxy(CIMultiDict(kept))
