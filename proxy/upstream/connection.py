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

HIGH_WATER_BYTES: Final = 262_144


class ConnectionClosedError(UpstreamError):
    """The upstream closed the connection before the first byte of a response."""

    default_error_type = "connection_terminated"


class ResponseHead:
    """A response's head as it came."""

    __slots__ = ("fields", "reason", "status", "version")

    def __init__(self, status: int, version: str, reason: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.version = version
        self.reason = reason
        self.fields = fields


class UpstreamConnection(asyncio.Protocol):
    """See the module."""

    __slots__ = (
        "_bodiless_bytes", "_chunks", "_clock", "_closed", "_complete", "_drained", "_error", "_fields", "_held",
        "_idle_timeout", "_in_trailers", "_informational", "_keep_alive", "_max_head_bytes", "_overrun", "_parser",
        "_parser_spent", "_paused", "_reason", "_seen_bytes", "_wake", "_without_body", "_writing_paused", "born",
        "busy", "idle_since", "requests", "response", "sending", "transport", "upgraded", "wrote",
    )  # fmt: skip

    def __init__(self, clock: Clock, max_head_bytes: int, idle_timeout_seconds: float) -> None:
        # Per connection.
        self._clock = clock
        self._max_head_bytes = max_head_bytes
        self._idle_timeout = idle_timeout_seconds
        self._parser: Any = None
        self._parser_spent = True
        self._closed = False
        self._writing_paused = False
        self._drained: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.born = clock.monotonic()
        self.idle_since = self.born
        self.requests = 0
        self.busy = False
        # Per response.
        self._reset(without_body=False)

    def _reset(self, *, without_body: bool) -> None:
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._fields: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._seen_bytes = 0
        self._bodiless_bytes = 0  # since the last piece of body: a head, or a trailer section
        self._overrun = False
        self._in_trailers = False
        self._informational: deque[ResponseHead] = deque()
        self._complete = False
        self._keep_alive = False
        self._paused = False
        self._error: ProxyError | None = None
        self._wake: asyncio.Future[None] | None = None
        self._without_body = without_body
        self.response: ResponseHead | None = None
        self.sending: asyncio.Task[ProxyError | None] | None = None  # of the request's body
        self.upgraded = False
        self.wrote = False  # a byte of the request may have reached the upstream
        # llhttp cannot be told that a response to HEAD has no body: afterwards the parser still waits for one.
        if self._parser_spent:
            self._parser = httptools.HttpResponseParser(self)
        self._parser_spent = without_body

    # asyncio's side.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        if self.busy and not self._complete and self._error is None:
            self._ended(exc)
        self._rouse()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    @override
    def eof_received(self) -> bool:
        if self.upgraded:
            self._complete = True
            self._rouse()
            return True  # the other direction may go on
        return False

    @override
    def pause_writing(self) -> None:
        self._writing_paused = True

    @override
    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    @override
    def data_received(self, data: bytes) -> None:
        if self.upgraded:
            self._take(data)
            self._rouse()
            return
        if not self.busy or self._complete:
            # Nobody asked for this: whatever it is, it must not become the answer to the next request.
            self.abort()
            return
        self._seen_bytes += len(data)
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
        if self._bodiless_bytes > self._max_head_bytes and not self._complete:
            self._fail(
                UpstreamError(
                    f"a head or trailer section of the upstream's response is over {self._max_head_bytes} bytes",
                    error_type="http_response_header_section_size",
                )
            )
        self._rouse()

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
        if not self._in_trailers and not self._overrun:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._overrun:
            return
        parser = self._parser
        head = ResponseHead(parser.get_status_code(), parser.get_http_version(), self._reason, self._fields)
        self._fields, self._reason = [], b""
        if 100 <= head.status < 200 and head.status != 101:
            self._informational.append(head)
            return
        self._in_trailers = True
        self.response = head
        self._keep_alive = self._may_go_on(head)
        if self._without_body:
            self._complete = True

    def _may_go_on(self, head: ResponseHead) -> bool:
        """Whether the connection outlives this response (RFC 9112 §9.3)."""
        options = b",".join(value.lower() for name, value in head.fields if name.lower() == b"connection")
        if b"close" in options or (head.version == "1.0" and b"keep-alive" not in options):
            return False
        return self._without_body or head.status in (204, 304) or not _is_delimited_by_close(head)

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
        self._held += len(data)
        if self._held > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    # State.

    def _ended(self, cause: Exception | None) -> None:
        """The upstream closed. Is what came a message?"""
        if self.upgraded:
            self._complete = True
        elif self.response is None:
            if self._seen_bytes:
                self._error = UpstreamIncompleteError("the upstream closed in the middle of a response's head")
            else:
                self._error = ConnectionClosedError("the upstream closed the connection without a response")
        elif _is_delimited_by_close(self.response) and cause is None:
            self._complete = True
        else:
            self._error = UpstreamIncompleteError("the upstream closed before its response was complete")

    def _fail(self, error: ProxyError) -> None:
        if self._error is None and not self._complete:
            self._error = error
        self.abort()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return (
            self._complete
            and not self._closed
            and not self.upgraded
            and self._error is None
            and self.response is not None
            and not self._chunks
            and not self.transport.is_closing()
            and self._keep_alive
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
        self._reset(without_body=without_body)

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while the upstream is slow to take them.

        Raises:
            UpstreamError: the connection is lost, or the upstream takes nothing for too long.
        """
        if not self.alive:
            raise self._error or ConnectionClosedError("the upstream closed the connection")
        self.wrote = True
        self.transport.write(data)
        if not self._writing_paused:
            return
        self._drained = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._idle_timeout):
                await self._drained
        except TimeoutError:
            error = UpstreamTimeoutError(
                "the upstream does not take the request", error_type="connection_write_timeout"
            )
            self._fail(error)
            raise error from None
        if self._closed:
            raise self._error or ConnectionClosedError("the upstream closed while the request was sent")

    async def wait(self, timeout_seconds: float) -> None:
        """Wait until something changes.

        Raises:
            TimeoutError: nothing did.
        """
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        timer = loop.call_later(timeout_seconds, self._expire, self._wake)
        try:
            await self._wake
        finally:
            timer.cancel()

    @staticmethod
    def _expire(wake: asyncio.Future[None]) -> None:
        if not wake.done():
            wake.set_exception(TimeoutError())

    async def head(self, timeout_seconds: float) -> ResponseHead:
        """The next head, informational ones first.

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
                await self.wait(timeout_seconds)
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
                await self.wait(self._idle_timeout)
            except TimeoutError:
                self.abort()
                raise UpstreamTimeoutError(f"the upstream was silent for {self._idle_timeout:g} s") from None
        return self.arrived()

    def idle(self) -> None:
        """Nobody uses it now."""
        self.busy = False
        self.idle_since = self._clock.monotonic()

    def abort(self) -> None:
        """Close at once."""
        if not self._closed:
            self.transport.abort()


def _is_delimited_by_close(head: ResponseHead) -> bool:
    names = {name.lower() for name, _ in head.fields}
    return b"content-length" not in names and b"transfer-encoding" not in names


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
            await connection.wait(10.0 * 365 * 86_400)
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
