"""A request on its way to the upstream, and the response's head on its way back."""

import asyncio
import re
from typing import Final

from proxy.errors import ClientError, ProxyError, UpstreamError
from proxy.http.body import BodyStream
from proxy.http.message import Request, from_wire, make_headers, to_wire
from proxy.pipeline.exchange import InformationalSender
from proxy.tasks import Tasks
from proxy.upstream.connection import ResponseHead, UpstreamConnection
from proxy.upstream.settings import UpstreamSettings

BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "QUERY"})
"""Methods whose requests say `Content-Length: 0` when they have no body (RFC 9110 §8.6)."""

_FOR_EVER: Final = 10.0 * 365 * 86_400
_LENGTH_DIGITS: Final = 18
WITH_HEAD_BYTES: Final = 65_536
"""A body up to this goes out with the head in one write; sending a longer one leaves room to hear an early answer."""

_OURS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "keep-alive"})
_UNSAFE: Final = re.compile(rb"[\r\n\0]")
_SAFE_TARGET: Final = re.compile(rb"[^\0-\x20\x7f]+")
_SAFE_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _declared_length(request: Request) -> int | None:
    """What the client said of the length of a streamed body; None: nothing that counts."""
    length = request.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) <= _LENGTH_DIGITS else None


class Sender:
    """Writes requests."""

    __slots__ = ("_settings",)

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings

    def head(self, request: Request, protocol: str) -> bytes:
        """The request's head as bytes; a small body that is known follows in the same write.

        Args:
            protocol: to switch to; empty for other requests.

        Raises:
            ClientError: the request cannot be written without becoming two.
        """
        target = to_wire(request.target)
        if not _SAFE_METHOD.fullmatch(request.method) or not _SAFE_TARGET.fullmatch(target):
            raise ClientError("the request's method or target cannot be sent on")
        host = request.host if self._settings.preserve_host and request.host else self._settings.address.authority
        lines = [request.method.encode() + b" " + target + b" HTTP/1.1", b"Host: " + to_wire(host)]
        lines += [
            to_wire(name) + b": " + to_wire(value)
            for name, value in request.headers.items()
            if name.lower() not in _OURS
        ]
        if isinstance(request.body, BodyStream):
            length = _declared_length(request)
            lines.append(b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length)
        elif request.body or request.method in BODY_METHODS:
            lines.append(b"Content-Length: %d" % len(request.body))
        if protocol:
            lines += [b"Connection: Upgrade", b"Upgrade: " + to_wire(protocol)]
        if any(_UNSAFE.search(line) for line in lines):
            raise ClientError("a header field of the request cannot be sent on")
        return b"\r\n".join(lines) + b"\r\n\r\n"

    async def converse(
        self,
        connection: UpstreamConnection,
        request: Request,
        head: bytes,
        informational: InformationalSender | None,
        tasks: Tasks,
    ) -> ResponseHead:
        """Send the request and wait for the response's head; a streamed body goes on being sent beside.

        Raises:
            UpstreamError: there is no response.
            ClientError: the client's body broke off.
        """
        body = request.body
        if isinstance(body, bytes) and len(body) <= WITH_HEAD_BYTES:
            await connection.write(head + body if body else head)
            return await self._final_head(connection, informational, None)
        await connection.write(head)
        ready = asyncio.Event()
        if "Expect" not in request.headers:
            ready.set()
        work = (
            self._send_whole(connection, body)
            if isinstance(body, bytes)
            else self._send_body(connection, body, _declared_length(request), ready)
        )
        connection.sending = tasks.start("request body", work)
        try:
            return await self._final_head(connection, informational, ready)
        except ProxyError:
            # If the client's body broke off, that is what happened; the connection's end only follows from it.
            sent = await self._stop(connection.sending)
            if isinstance(sent, ClientError):
                raise sent from None
            raise
        except BaseException:
            connection.sending.cancel()
            raise

    async def _final_head(
        self, connection: UpstreamConnection, informational: InformationalSender | None, ready: asyncio.Event | None
    ) -> ResponseHead:
        while True:
            head = await self._next_head(connection)
            if head.status >= 200 or head.status == 101:
                if ready is not None and not ready.is_set() and connection.sending is not None:
                    connection.sending.cancel()  # the upstream decided without the body
                return head
            if ready is not None and head.status == 100:
                ready.set()
            if informational is not None:
                fields = make_headers((from_wire(name), from_wire(value)) for name, value in head.fields)
                try:
                    await informational(head.status, fields)
                except ConnectionError as error:
                    raise ClientError("the client is gone") from error

    async def _next_head(self, connection: UpstreamConnection) -> ResponseHead:
        """The first-byte clock runs only once the whole request is out; a slow upload is not the upstream's fault."""
        sending = connection.sending
        if sending is None:
            return await connection.head(self._settings.first_byte_timeout_seconds)
        while not sending.done():
            waiting = asyncio.ensure_future(connection.head(_FOR_EVER))  # noqa: TID251 — awaited right here
            try:
                await asyncio.wait({waiting, sending}, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    return waiting.result()
            finally:
                waiting.cancel()
        if not sending.cancelled() and (error := sending.result()) is not None:
            raise error
        return await connection.head(self._settings.first_byte_timeout_seconds)

    async def _send_whole(self, connection: UpstreamConnection, body: bytes) -> ProxyError | None:
        """Send a body that is here. Returns what went wrong."""
        try:
            await connection.write(body)
        except UpstreamError as error:
            return error
        return None

    async def _send_body(
        self, connection: UpstreamConnection, body: BodyStream, length: int | None, ready: asyncio.Event
    ) -> ProxyError | None:
        """Send the body as it comes. Returns what went wrong, for whoever waits for the response to judge.

        Args:
            length: as the head declares it; not a byte more or less is sent, or the connection ends: what is behind
                would be read as another request.
        """
        if not ready.is_set():
            try:
                async with asyncio.timeout(self._settings.expect_timeout_seconds):
                    await ready.wait()
            except TimeoutError:
                ready.set()  # RFC 9110 §10.1.1: a client does not wait for ever
        sent = 0
        try:
            async for chunk in body:
                sent += len(chunk)
                if length is not None and sent > length:
                    raise ClientError("the request's body is longer than its Content-Length")
                if chunk:
                    await connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if length is None else chunk)
            if length is not None and sent < length:
                raise ClientError("the request's body is shorter than its Content-Length")
            if length is None:
                await connection.write(b"0\r\n\r\n")
        except UpstreamError as error:
            return error
        except ProxyError as error:
            connection.abort()
            return error
        return None

    @staticmethod
    async def _stop(sending: asyncio.Task[ProxyError | None]) -> ProxyError | None:
        if not sending.done():
            sending.cancel()
            await asyncio.wait({sending})
        return None if sending.cancelled() else sending.result()

    @staticmethod
    def is_sent(connection: UpstreamConnection) -> bool:
        """Whether the request is out whole; one that is still being sent is given up, and its connection with it."""
        sending = connection.sending
        if sending is None:
            return True
        if not sending.done():
            sending.cancel()
            return False
        return not sending.cancelled() and sending.result() is None
