"""One connection to the upstream: bytes out, llhttp's events in.

Theory of operation. A connection carries one request at a time. `begin` writes a request's head; `head` waits for the
response's. What arrives of the body before anybody reads is kept in `_chunks`; above a high-water mark reading stops
until it is taken, so a slow client slows the upstream down and memory stays bounded. A message that is complete when
its head is looked at becomes `bytes` without a stream, a task or a copy.
"""

import asyncio
from collections import deque
from typing import Any, Final, cast

import httptools
from typing_extensions import override

from proxy.clock import Clock
from proxy.errors import ProxyError, UpstreamError, UpstreamIncompleteError, UpstreamTimeoutError
from proxy.http.channel import Channel
from proxy.pipeline.passage import Tap
from proxy.upstream.fields import response_fields
from proxy.upstream.waiting import Signal

HIGH_WATER_BYTES: Final = 262_144


class ConnectionClosedError(UpstreamError):
    """The upstream closed the connection before the first byte of a response."""

    default_error_type = "connection_terminated"


class ResponseHead:
    """A response's head as it came.

    Attributes:
        headers: its fields without those that end at this hop.
        names, values: of all its fields, line by line.
    """

    __slots__ = ("headers", "names", "reason", "status", "values")

    def __init__(self, status: int, reason: bytes, names: tuple[bytes, ...], values: list[bytes]) -> None:
        self.status = status
        self.reason = reason
        self.headers = response_fields(names, values)
        self.names = names
        self.values = values

    def lines(self, name: bytes) -> list[bytes]:
        """The values of the field called `name`, which is lower case."""
        return [value for own, value in zip(self.names, self.values, strict=True) if own.lower() == name]

    @property
    def delimited_by_close(self) -> bool:
        """Whether the body, if there is one, ends where the connection does (RFC 9112 §6.3)."""
        return not self.lines(b"content-length") and not self.lines(b"transfer-encoding")


class UpstreamConnection(asyncio.Protocol):
    """See the module.

    Attributes:
        born, idle_since: monotonic seconds; the pool tells when it is idle.
        requests: that were begun on it.
        busy: a request is under way, or its response.
        response: its final head, once that is here.
        sending: the task that sends the request's body, if that did not go out with its head.
        tap: hears what arrives, before the parser; for one request.
        upgraded: what arrives is another protocol's.
        wrote: a byte of the request may have reached the upstream.
        writing_paused: the upstream is slow to take what was sent.
    """

    __slots__ = (
        "_bodiless_bytes", "_changed", "_chunks", "_closed", "_complete", "_drained", "_error", "_held",
        "_idle_timeout", "_informational", "_keep_alive", "_max_head_bytes", "_names", "_overrun", "_parser",
        "_parser_spent", "_paused", "_reason", "_values", "_without_body", "born", "busy", "idle_since", "requests",
        "response", "sending", "tap", "transport", "upgraded", "writing_paused", "wrote",
    )  # fmt: skip

    def __init__(self, clock: Clock, max_head_bytes: int, idle_timeout_seconds: float) -> None:
        # Per connection.
        self._max_head_bytes = max_head_bytes
        self._idle_timeout = idle_timeout_seconds
        self._changed = Signal()
        self._drained = Signal()
        self._parser: Any = None
        self._closed = False
        self.writing_paused = False
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.born = clock.monotonic()
        self.idle_since = self.born
        self.requests = 0
        self.busy = False
        # Per request: `begin` sets them anew.
        self._parser_spent = True
        self._complete = False
        self._bodiless_bytes = 0  # since the last piece of body: of a head, or a trailer section
        self._without_body = False
        self.response: ResponseHead | None = None
        self.sending: asyncio.Task[ProxyError | None] | None = None
        self.tap: Tap | None = None
        self.wrote = False
        # Per response: on a connection that is used again, as they were.
        self._chunks: list[bytes] = []
        self._held = 0
        self._paused = False
        self._names: list[bytes] = []
        self._values: list[bytes] = []
        self._reason = b""
        self._informational: deque[ResponseHead] = deque()
        self._keep_alive = False
        self._overrun = False
        self._error: ProxyError | None = None
        self.upgraded = False

    # asyncio's side.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self.tap is not None:
            self.tap.lost()  # who may have kept from the parser what came
        self._closed = True
        if self.busy and not self._complete and self._error is None:
            self._ended(exc)
        self._changed.end()
        self._drained.end()
        self._parser = None  # it refers to this object

    @override
    def eof_received(self) -> bool:
        if self.upgraded:
            self._complete = True
            self._changed.give()
            return True  # the other direction may go on
        return False

    @override
    def pause_writing(self) -> None:
        self.writing_paused = True

    @override
    def resume_writing(self) -> None:
        self.writing_paused = False
        self._drained.give()

    @override
    def data_received(self, data: bytes) -> None:
        if self.tap is not None and self.tap.arrived(data):
            return
        if self.upgraded:
            self._take(data)
            self._changed.give()
            return
        if not self.busy or self._complete:
            # Nobody asked for this: whatever it is, it must not become the answer to the next request.
            self.abort()
            return
        self._bodiless_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            offset = upgrade.args[0]
            if self._is_switching():
                self.upgraded = True
                if offset < len(data):
                    self._take(data[offset:])
            else:
                self._fail(UpstreamError("the upstream switched protocols without being asked"))
        except httptools.HttpParserCallbackError as error:
            self._fail(UpstreamError(f"the upstream's response is not acceptable: {error.__context__}"))
        except httptools.HttpParserError as error:
            if not (self.complete and self._without_body):
                self._fail(UpstreamError(f"the upstream's response is not HTTP: {error}"))
        if self._bodiless_bytes > self._max_head_bytes and not self.complete:
            self._fail(
                UpstreamError(
                    f"a head or trailer section of the upstream's response is over {self._max_head_bytes} bytes",
                    error_type="http_response_header_section_size",
                )
            )
        self._changed.give()

    # The parser's side.

    def on_message_begin(self) -> None:
        """A response begins. One that nobody asked for, behind a complete one, must not take its place."""
        if self._complete:
            self._overrun = True
            self._keep_alive = False

    def on_status(self, status: bytes) -> None:
        """The reason phrase, or a part of it."""
        if not self._overrun:
            self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head; those of trailers are let go."""
        if self.response is None:
            self._names.append(name)
            self._values.append(value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._overrun:
            return
        parser = self._parser
        status = parser.get_status_code()
        head = ResponseHead(status, self._reason, tuple(self._names), self._values)
        self._names, self._values, self._reason = [], [], b""
        if status < 200 and status != 101:
            self._informational.append(head)
            return
        self.response = head
        self._keep_alive = parser.should_keep_alive()
        if self._without_body:
            self._complete = True
            # llhttp knows nothing of the request, and takes the end of this message for the connection's if no field
            # tells where a body would end (RFC 9112 §6.3, the first rule).
            self._keep_alive = self._keep_alive or (
                parser.get_http_version() != "1.0" and b"close" not in b",".join(head.lines(b"connection")).lower()
            )

    def on_body(self, data: bytes) -> None:
        """Bytes of the body."""
        if self._without_body or self._overrun:
            self._keep_alive = False
            return
        self._bodiless_bytes = 0
        self._take(data)

    def on_message_complete(self) -> None:
        """The message ended, by its own framing."""
        if self.response is not None and self.response.status != 101:
            self._complete = True

    def _is_switching(self) -> bool:
        return self.response is not None and self.response.status == 101

    def _take(self, data: bytes) -> None:
        self._chunks.append(data)
        held = self._held = self._held + len(data)
        if held > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    # State.

    def _ended(self, cause: Exception | None) -> None:
        """The upstream closed. Is what came a message?"""
        if self.upgraded:
            self._complete = True
        elif self.response is None:
            if self._bodiless_bytes:
                self._error = UpstreamIncompleteError("the upstream closed in the middle of a response's head")
            else:
                self._error = ConnectionClosedError("the upstream closed the connection without a response")
        elif self.response.delimited_by_close and cause is None:
            self._complete = True
        else:
            self._error = UpstreamIncompleteError("the upstream closed before its response was complete")

    def _fail(self, error: ProxyError) -> None:
        if self._error is None and not self._complete:
            self._error = error
        self.abort()

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return (
            self._keep_alive
            and self._complete
            and not self._closed
            and not self.upgraded
            and self._error is None
            and not self._chunks
            and not self.transport.is_closing()
        )

    @property
    def alive(self) -> bool:
        """Whether it is open as far as is known here."""
        return not self._closed and not self.transport.is_closing()

    @property
    def complete(self) -> bool:
        """Whether the whole message has arrived."""
        return self._complete

    # Use.

    def begin(self, *, without_body: bool) -> None:
        """Make ready for one request and its response."""
        self.busy = True
        self.requests += 1
        self.wrote = False
        self.sending = None
        self.tap = None
        self.response = None
        self._keep_alive = self._complete = False
        self._bodiless_bytes = 0
        self._without_body = without_body
        # llhttp cannot be told that a response to HEAD has no body: afterwards the parser still waits for one.
        if self._parser_spent:
            self._parser = httptools.HttpResponseParser(self)
        self._parser_spent = without_body

    def send(self, data: bytes) -> None:
        """Send bytes. Whoever has more of them waits with `drain` while `writing_paused`.

        Raises:
            UpstreamError: the connection is lost.
        """
        if self._closed or self.transport.is_closing():
            raise self._error or ConnectionClosedError("the upstream closed the connection")
        self.wrote = True
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait while the upstream is slow to take what was sent.

        Raises:
            UpstreamError: the connection is lost, or the upstream takes nothing for too long.
        """
        if not self.writing_paused:
            return
        try:
            await self._drained.wait(self._idle_timeout)
        except TimeoutError:
            error = UpstreamTimeoutError(
                "the upstream does not take the request", error_type="connection_write_timeout"
            )
            self._fail(error)
            raise error from None
        if self._closed:
            raise self._error or ConnectionClosedError("the upstream closed while the request was sent")

    async def write(self, data: bytes) -> None:
        """Send bytes, and wait while the upstream is slow to take them.

        Raises:
            UpstreamError: the connection is lost, or the upstream takes nothing for too long.
        """
        self.send(data)
        await self.drain()

    def change(self) -> asyncio.Future[None]:
        """What to await until something arrives, or the connection ends; however long that takes."""
        return self._changed.wait(None)

    async def head(self, timeout_seconds: float | None, *, waited_seconds: float = 0.0) -> ResponseHead:
        """The next head, informational ones first.

        Args:
            timeout_seconds: None: wait for ever.
            waited_seconds: so many of them have passed already.

        Raises:
            UpstreamError: there is none.
        """
        while True:
            if self._informational:
                return self._informational.popleft()
            if self.response is not None:
                return self.response
            if self._error is not None:
                raise self._error
            try:
                await self._changed.wait(
                    None if timeout_seconds is None else max(0.0, timeout_seconds - waited_seconds)
                )
            except TimeoutError:
                self.abort()
                raise UpstreamTimeoutError(f"the upstream did not answer within {timeout_seconds:g} s") from None

    def arrived(self) -> bytes:
        """All of the body that is here, taken."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._held = 0
        if self._paused and not self._closed:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def chunk(self) -> bytes:
        """The next bytes of the body; empty at its end.

        Raises:
            ProxyError: the body cannot be completed.
        """
        while not self._chunks:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            try:
                await self._changed.wait(self._idle_timeout)
            except TimeoutError:
                self.abort()
                raise UpstreamTimeoutError(f"the upstream was silent for {self._idle_timeout:g} s") from None
        return self.arrived()

    def abort(self) -> None:
        """Close at once."""
        if not self._closed:
            self.transport.abort()


class UpstreamChannel(Channel):
    """The upstream's side of a tunnel."""

    __slots__ = ("_connection", "_release")

    def __init__(self, connection: UpstreamConnection, release: Any) -> None:
        self._connection = connection
        self._release = release

    @override
    async def read(self) -> bytes:
        connection = self._connection
        while not connection._chunks:  # noqa: SLF001 — the channel is the connection's other face
            if connection.complete or not connection.alive:
                return b""
            await connection.change()
        return connection.arrived()

    @override
    async def write(self, data: bytes) -> None:
        try:
            await self._connection.write(data)
        except UpstreamError as error:
            raise ConnectionResetError(error.detail) from error

    @override
    async def write_eof(self) -> None:
        if self._connection.alive and self._connection.transport.can_write_eof():
            self._connection.transport.write_eof()

    @override
    async def aclose(self) -> None:
        self._connection.transport.close()
        self._release()
