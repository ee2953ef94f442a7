"""A connection to a server by hand: chunks go in exactly as given, and what comes out is kept."""

import asyncio
from collections.abc import Iterable
from typing import Any

from typing_extensions import override

from proxy.server.protocol import Connection

QUIET_ROUNDS = 40
DEADLINE_SECONDS = 10.0


class WireTransport(asyncio.Transport):
    """A socket whose peer takes everything at once, unless it is told to take nothing."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 40_000), "sockname": ("127.0.0.1", 8080)})
        self.protocol: Connection
        self.sent = bytearray()
        self.ended = False
        self.closed = False
        self.reading = True

    @override
    def write(self, data: Any) -> None:
        assert not self.ended, "bytes after the end"
        self.sent += data

    @override
    def writelines(self, list_of_data: Iterable[Any]) -> None:
        for data in list_of_data:
            self.write(data)

    @override
    def write_eof(self) -> None:
        self.ended = True

    @override
    def can_write_eof(self) -> bool:
        return True

    @override
    def get_write_buffer_size(self) -> int:
        return 0

    @override
    def is_closing(self) -> bool:
        return self.closed

    @override
    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    @override
    def abort(self) -> None:
        self.close()

    @override
    def pause_reading(self) -> None:
        self.reading = False

    @override
    def resume_reading(self) -> None:
        self.reading = True

    @override
    def is_reading(self) -> bool:
        return self.reading


class Wire:
    """A client.

    Args:
        connection: just made, of no transport yet.
    """

    def __init__(self, connection: Connection, peer: str = "192.0.2.1") -> None:
        self._connection = connection
        self._transport = transport = WireTransport(peer)
        transport.protocol = connection
        connection.connection_made(transport)

    @property
    def sent(self) -> bytes:
        """Everything that the server has sent."""
        return bytes(self._transport.sent)

    @property
    def over(self) -> bool:
        """Whether the server sends nothing more."""
        return self._transport.closed or self._transport.ended

    async def feed(self, data: bytes) -> None:
        """Hand `data` to the server in one piece, as soon as it reads."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not self._transport.reading and not self._transport.closed:
                await asyncio.sleep(0)
        if data and not self._transport.closed:
            self._connection.data_received(data)

    async def settle(self) -> None:
        """Wait until the server does nothing more for what it was given. Nothing in it may wait for a thread."""
        quiet = 0
        while quiet < QUIET_ROUNDS:
            before = len(self._transport.sent), self.over
            await asyncio.sleep(0)
            quiet = quiet + 1 if before == (len(self._transport.sent), self.over) else 0

    async def leave(self) -> None:
        """Close the connection, and wait until the server knows."""
        self._transport.close()
        for _ in range(QUIET_ROUNDS):
            await asyncio.sleep(0)
