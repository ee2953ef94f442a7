"""Responses as bytes: status line, fields, framing.

Rule: how a response is framed (RFC 9112 §6) is decided here and nowhere else. `Connection`, `Transfer-Encoding` and
`Content-Length` on the wire are this file's; every other field goes out as it is, byte for byte.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Final, Protocol

from multidict import CIMultiDict, istr

from proxy.clock import Clock
from proxy.errors import ProxyError
from proxy.http.body import Body, BodyStream
from proxy.http.dates import format_date
from proxy.http.message import Headers, Response, to_wire
from proxy.http.names import CONTENT_LENGTH, DATE

_STATUS_LINES: Final[Mapping[int, str]] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}" for status in HTTPStatus
}
_OWN_FIELDS: Final = tuple(
    map(istr, ("Connection", "Transfer-Encoding", CONTENT_LENGTH, "Keep-Alive", "Upgrade", "Proxy-Connection"))
)
_BREATH_BYTES: Final = 1_048_576
_LAST_CHUNK: Final = b"0\r\n\r\n"


class Framing(Enum):
    """How the recipient finds the end of a response's body (RFC 9112 §6.3)."""

    NONE = "none"  # there is no body
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


class Sink(Protocol):
    """Where a response's bytes go."""

    @property
    def writing_paused(self) -> bool:
        """Whether `drain` would wait."""
        ...

    def send(self, *parts: bytes) -> None:
        """Give `parts` to the socket.

        Raises:
            ConnectionError: the client has left.
        """
        ...

    async def drain(self) -> None:
        """Wait while the client is slow to take what was sent.

        Raises:
            ConnectionError: it has left, or was too slow.
        """
        ...


class UnwritableResponseError(ProxyError):
    """A response with a field that would end its head early, or a body that does not fit its Content-Length."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A response's head, ready to send, and what is to follow.

    Attributes:
        length: of the body, when `framing` is LENGTH.
        keep_alive: whether another request may follow on the connection.
    """

    head: bytes
    framing: Framing
    length: int
    keep_alive: bool


class DateField:
    """The `Date` field's line, made once a second."""

    __slots__ = ("_clock", "_line", "_second")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._second = -1
        self._line = ""

    def line(self) -> str:
        """`Date: ...`, without its line end."""
        second = int(self._clock.wall())
        if second != self._second:
            self._second = second
            self._line = f"Date: {format_date(second)}"
        return self._line


class ResponseWriter:
    """Writes responses.

    Args:
        name: this proxy's pseudonym in `Via`.
    """

    __slots__ = ("_date", "_via")

    def __init__(self, clock: Clock, name: str) -> None:
        self._date = DateField(clock)
        self._via = f"Via: 1.1 {name}"

    def frame(self, response: Response, *, method: str, version: tuple[int, int], keep_alive: bool) -> Frame:
        """Decide the framing and make the head.

        Args:
            method, version: of the request.
            keep_alive: whether the connection could go on.

        Raises:
            UnwritableResponseError: a field holds a line break, or Content-Length is no length.
        """
        framing, length = _framing(response, method, version)
        keep_alive = keep_alive and framing is not Framing.CLOSE
        headers = response.headers
        own = [name for name in _OWN_FIELDS if name in headers]
        says_length = own == [CONTENT_LENGTH] and headers.getall(CONTENT_LENGTH) == [
            str(length)
        ]  # most do: that saves a copy
        lines = _lines(response, headers if says_length else _without(headers, own))
        if DATE not in headers:
            lines.append(self._date.line())
        lines.append(self._via)
        if length >= 0:
            if not says_length:
                lines.append(f"Content-Length: {length}")
        elif framing is Framing.CHUNKED:
            lines.append("Transfer-Encoding: chunked")
        if not keep_alive:
            lines.append("Connection: close")
        elif version < (1, 1):
            lines.append("Connection: keep-alive")
        return Frame(_join(lines), framing, length, keep_alive)

    def switch_head(self, response: Response, protocol: str) -> bytes:
        """The head of a 101 response (RFC 9110 §15.2.2).

        Raises:
            UnwritableResponseError: a field holds a line break.
        """
        lines = _lines(response, _without(response.headers, _OWN_FIELDS))
        return _join([*lines, self._via, "Connection: upgrade", f"Upgrade: {protocol}"])

    def informational_head(self, status: int, headers: Headers) -> bytes:
        """A 1xx response (RFC 9110 §15.2).

        Raises:
            UnwritableResponseError: a field holds a line break.
        """
        return _join(_lines(Response(status), _without(headers, _OWN_FIELDS)))


class BodySender:
    """Sends one response.

    Attributes:
        head_sent: whether the head went out.
        sent: how many bytes of the body went out so far.
    """

    __slots__ = ("_frame", "_sink", "head_sent", "sent")

    def __init__(self, frame: Frame, sink: Sink) -> None:
        self._frame = frame
        self._sink = sink
        self.head_sent = False
        self.sent = 0

    async def send(self, body: Body) -> None:
        """Send the head and the body behind it, as it arrives. The body is not closed here.

        Raises:
            ConnectionError: the client has left, or was too slow.
            ProxyError: the body could not be completed, or is longer or shorter than its Content-Length. The client
                has not got a complete response, and the caller has to end the connection.
        """
        frame, sink = self._frame, self._sink
        if frame.framing is Framing.NONE:
            sink.send(frame.head)
            self.head_sent = True
        elif isinstance(body, bytes):
            sink.send(frame.head, body)
            self.head_sent = True
            self.sent = len(body)
            if sink.writing_paused:
                await sink.drain()
        else:
            sink.send(frame.head)
            self.head_sent = True
            await self._send_stream(body)

    async def _send_stream(self, body: BodyStream) -> None:
        frame, sink = self._frame, self._sink
        chunked = frame.framing is Framing.CHUNKED
        breath = _BREATH_BYTES
        async for data in body:
            if not data:
                continue  # as a chunk it would end the body
            if frame.length >= 0 and self.sent + len(data) > frame.length:
                raise UnwritableResponseError("the response is longer than its Content-Length")
            if chunked:
                sink.send(b"%x\r\n" % len(data), data, b"\r\n")
            else:
                sink.send(data)
            self.sent += len(data)
            if sink.writing_paused:
                await sink.drain()
            elif self.sent >= breath:
                breath = self.sent + _BREATH_BYTES
                await asyncio.sleep(0)  # a body that never waits must not keep the others waiting
        if self.sent < frame.length:
            raise UnwritableResponseError("the response is shorter than its Content-Length")
        if chunked:
            sink.send(_LAST_CHUNK)


def _framing(response: Response, method: str, version: tuple[int, int]) -> tuple[Framing, int]:
    """The framing and the value of Content-Length; -1: the field is left out."""
    status, body = response.status, response.body
    if status == 204:
        return Framing.NONE, -1
    declared = _declared_length(response.headers)
    if method == "HEAD" or status == 304:
        # RFC 9110 §8.6: the length that a GET's 200 would have, or nothing.
        own = len(body) if isinstance(body, bytes) and body and status != 304 else -1
        return Framing.NONE, declared if declared >= 0 else own
    if isinstance(body, bytes):
        return Framing.LENGTH, len(body)
    if declared >= 0:
        return Framing.LENGTH, declared
    return (Framing.CHUNKED if version >= (1, 1) else Framing.CLOSE), -1


def _declared_length(headers: Headers) -> int:
    values = headers.getall("Content-Length", ())
    if not values:
        return -1
    value = values[0]
    if not value.isascii() or not value.isdigit() or any(other != value for other in values):
        raise UnwritableResponseError("the response's Content-Length is no length")
    return int(value)


def _without(headers: Headers, names: Collection[str]) -> Headers | CIMultiDict[str]:
    if not names:
        return headers
    rest = headers.copy()
    for name in names:
        rest.popall(name, None)
    return rest


def _lines(response: Response, headers: Headers | CIMultiDict[str]) -> list[str]:
    """Status line and field lines, without their line ends."""
    status = response.status
    if response.reason:
        first = f"HTTP/1.1 {status} {response.reason}"
    else:
        first = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} "
    return [first, *map(": ".join, headers.items())]


def _join(lines: list[str]) -> bytes:
    """The lines as a head. Counting line ends finds one that a field smuggled in, at a fraction of the price of
    looking at each field (0.2 µs for 15 fields).
    """
    lines += ("", "")
    head = "\r\n".join(lines)
    ends = len(lines) - 1
    if head.count("\n") != ends or head.count("\r") != ends or "\0" in head:
        raise UnwritableResponseError("a response field holds a control character")
    return to_wire(head)
