"""A request on its way to the upstream, and the response's head on its way back."""

import asyncio
from typing import Final

from proxy.errors import ClientError, ProxyError, UpstreamError
from proxy.http.body import BodyStream
from proxy.http.message import Request
from proxy.pipeline.exchange import InformationalSender
from proxy.tasks import Tasks
from proxy.upstream.connection import ResponseHead, UpstreamConnection
from proxy.upstream.fields import declared_length, request_head
from proxy.upstream.settings import UpstreamSettings

WITH_HEAD_BYTES: Final = 65_536
"""A body up to this goes out with the head in one write; sending a longer one leaves room to hear an early answer."""


class Sender:
    """Sends requests, and waits for the heads of their responses."""

    __slots__ = ("_authority", "_expect_timeout", "_first_byte_timeout", "_preserve_host")

    def __init__(self, settings: UpstreamSettings) -> None:
        self._authority = settings.address.authority
        self._preserve_host = settings.preserve_host
        self._first_byte_timeout = settings.first_byte_timeout_seconds
        self._expect_timeout = settings.expect_timeout_seconds

    def head(self, request: Request, protocol: str) -> bytes:
        """The request's head as bytes: see `request_head`."""
        return request_head(request, (self._preserve_host and request.host) or self._authority, protocol)

    async def converse(
        self,
        connection: UpstreamConnection,
        request: Request,
        head: bytes,
        informational: InformationalSender | None,
        tasks: Tasks,
    ) -> ResponseHead:
        """Send a request whose body does not go out with its head, and wait for the response's head; a streamed body
        goes on being sent beside.

        Raises:
            UpstreamError: there is no response.
            ClientError: the client's body broke off.
        """
        body = request.body
        await connection.write(head)
        ready = asyncio.Event()
        if "Expect" not in request.headers:
            ready.set()
        work = (
            self._send_whole(connection, body)
            if isinstance(body, bytes)
            else self._send_body(connection, body, declared_length(request), ready)
        )
        connection.sending = tasks.start("request body", work)
        try:
            return await self.final_head(connection, informational, ready, await self._next_head(connection))
        except ProxyError:
            # If the client's body broke off, that is what happened; the connection's end only follows from it.
            sent = await self._stop(connection.sending)
            if isinstance(sent, ClientError):
                raise sent from None
            raise
        except BaseException:
            connection.sending.cancel()
            raise

    async def final_head(
        self,
        connection: UpstreamConnection,
        informational: InformationalSender | None,
        ready: asyncio.Event | None,
        head: ResponseHead,
    ) -> ResponseHead:
        """The first head that is no interim one: `head`, or one behind it. Passes on those before."""
        while True:
            if head.status >= 200 or head.status == 101:
                if ready is not None and not ready.is_set() and connection.sending is not None:
                    connection.sending.cancel()  # the upstream decided without the body
                return head
            if ready is not None and head.status == 100:
                ready.set()
            if informational is not None:
                try:
                    await informational(head.status, head.headers)
                except ConnectionError as error:
                    raise ClientError("the client is gone") from error
            head = await self._next_head(connection)

    async def _next_head(self, connection: UpstreamConnection) -> ResponseHead:
        """The first-byte clock runs only once the whole request is out; a slow upload is not the upstream's fault."""
        sending = connection.sending
        if sending is None:
            return await connection.head(self._first_byte_timeout)
        while not sending.done():
            waiting = asyncio.ensure_future(connection.head(None))  # noqa: TID251 — awaited right here
            try:
                await asyncio.wait({waiting, sending}, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    return waiting.result()
            finally:
                waiting.cancel()
        if not sending.cancelled() and (error := sending.result()) is not None:
            raise error
        return await connection.head(self._first_byte_timeout)

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
                async with asyncio.timeout(self._expect_timeout):
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
