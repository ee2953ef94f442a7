"""Every client's connection: made, counted, limited, and ended together."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from typing_extensions import override

from proxy.errors import ProxyError
from proxy.server.fast_lane import FastLane
from proxy.server.heads import Caller
from proxy.server.outbox import Outbox
from proxy.server.protocol import Connection
from proxy.server.raw import RawRequest
from proxy.server.refusals import TooManyConnectionsError
from proxy.server.settings import ServerSettings
from proxy.server.ways import Ways


class ProxyServer(web.Server):
    """Makes a `Connection` for each client, and knows them all.

    Args:
        handler: answers one request; whether another may follow it.
        settings: limits and time-outs.
        refuse: the wire bytes of the problem document for what never became a request; the connection closes.
        lane: answers what it can before it is parsed; None: everything is parsed.
        caller: what the lane is to know of a peer, by its address.
        ways: what else is answered past the pipeline.
    """

    def __init__(
        self,
        handler: Callable[[RawRequest], Awaitable[bool]],
        *,
        settings: ServerSettings,
        refuse: Callable[[ProxyError], bytes],
        lane: FastLane | None = None,
        caller: Callable[[str], Caller] | None = None,
        ways: Ways | None = None,
    ) -> None:
        super().__init__(_unasked, handler_cancellation=True)
        self.answer = handler
        self.refuse = refuse
        self.lane = lane if caller is not None else None
        self._caller = caller
        self.ways = ways
        self.draining = False
        self.outbox = Outbox(self._loop.call_soon)
        self._settings = settings
        self.clients: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @override
    def __call__(self) -> Connection:
        return Connection(self, self._loop, self._settings)

    def caller(self, peer: str) -> Caller | None:
        """What the fast lane is to know of the peer with this address."""
        return None if self._caller is None else self._caller(peer)

    def admit(self, connection: Connection) -> bool:
        """Take `connection` in, or answer that there are too many and close it."""
        if len(self.clients) >= self._settings.max_connections:
            connection.send(self.refuse(TooManyConnectionsError("too many clients are connected", retry_after=1)))
            connection.force_close()
            return False
        self.clients.add(connection)
        self._empty.clear()
        return True

    def forget(self, connection: Connection) -> None:
        """`connection` is closed."""
        self.clients.discard(connection)
        if not self.clients:
            self._empty.set()

    def forget_reply_keys(self) -> None:
        """What is being answered now is not kept by the fast lane: its key leaves out what may be heeded by now."""
        for connection in self.clients:
            connection.reply_key = connection.way_key = b""

    async def wait_until_empty(self) -> None:
        """Wait until no client is connected."""
        await self._empty.wait()

    def close_idle(self) -> None:
        """Close the connections that wait for a request, and let no connection outlive the request it has in hand."""
        self.draining = True
        if self.ways is not None:
            self.ways.hand_over()
        for connection in list(self.clients):
            connection.leave_lane()
            if connection.idle:
                connection.force_close()

    def cut(self) -> None:
        """End every connection, whatever it is doing."""
        for connection in list(self.clients):
            connection.reset()


async def _unasked(_request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("`Connection.start` has requests answered, not aiohttp")
