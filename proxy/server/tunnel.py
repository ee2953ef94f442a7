"""Raw bytes in both directions, after a protocol switch (RFC 9110 §7.8)."""

import asyncio
from collections import deque
from typing import Final

from typing_extensions import override

from proxy.http.channel import Channel
from proxy.server.protocol import Connection

HALF_CLOSED_SECONDS: Final = 60.0
"""How long a tunnel with one direction ended may be silent: its peer is likely gone without a word."""

_HIGH_WATER_BYTES: Final = 65_536


class ClientChannel(Channel):
    """The client's side of a tunnel. Reading from the client stops while nobody takes what it sent."""

    __slots__ = ("_arrived", "_buffered", "_chunks", "_connection", "_ended", "_ended_writing", "_paused")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._ended = False
        self._ended_writing = False
        self._arrived: asyncio.Event = asyncio.Event()
        connection.switch(self)

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """See `protocol.TunnelFeed`."""
        self._chunks.append(data)
        self._buffered += len(data)
        self._arrived.set()
        if self._buffered > _HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._connection.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        """See `protocol.TunnelFeed`."""
        self._ended = True
        self._arrived.set()

    @override
    async def read(self) -> bytes:
        while not self._chunks:
            if self._ended:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            self._connection.resume_reading()
        return data

    @override
    async def write(self, data: bytes) -> None:
        self._connection.send(data)
        if self._connection.writing_paused:
            await self._connection.drain()

    @override
    async def write_eof(self) -> None:
        if not self._ended_writing:
            self._ended_writing = True
            self._connection.send_eof()

    @override
    async def aclose(self) -> None:
        self._connection.force_close()


class TunnelRun:
    """One tunnel while it is open.

    Attributes:
        to_client_bytes, to_upstream_bytes: moved so far.
    """

    __slots__ = ("_deadline", "_idle_seconds", "to_client_bytes", "to_upstream_bytes")

    def __init__(self, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._deadline: asyncio.Timeout | None = None
        self.to_client_bytes = 0
        self.to_upstream_bytes = 0

    async def run(self, client: Channel, upstream: Channel) -> None:
        """Move bytes until both directions have ended, one side breaks, or both are silent for too long.

        The end of one direction is passed on, and the other goes on. Both channels are closed in any case.

        Raises:
            OSError: a side broke.
            TimeoutError: both were silent.
        """
        try:
            async with asyncio.timeout(self._idle_seconds) as self._deadline, asyncio.TaskGroup() as both:
                both.create_task(self._move(client, upstream, to_client=False), name="tunnel to upstream")
                both.create_task(self._move(upstream, client, to_client=True), name="tunnel to client")
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the first to break ended the other
        finally:
            try:
                await upstream.aclose()
            finally:
                await client.aclose()

    async def _move(self, source: Channel, destination: Channel, *, to_client: bool) -> None:
        while data := await source.read():
            self._stir()
            await destination.write(data)
            if to_client:
                self.to_client_bytes += len(data)
            else:
                self.to_upstream_bytes += len(data)
        self._idle_seconds = min(self._idle_seconds, HALF_CLOSED_SECONDS)
        self._stir()
        await destination.write_eof()

    def _stir(self) -> None:
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._idle_seconds)
