"""Opens the port, and closes it without breaking what is under way."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import Final

import structlog

from proxy.address import Address, remove_stale_socket
from proxy.clock import Clock
from proxy.metrics.registry import Registry
from proxy.server.accepting import Acceptor
from proxy.server.application import Application
from proxy.server.clients import ProxyServer
from proxy.server.fast_lane import FastLane
from proxy.server.handler import Handler
from proxy.server.protocol import Connection
from proxy.server.settings import ServerSettings
from proxy.server.supported import require_supported_aiohttp
from proxy.tasks import Tasks

CUT_SECONDS: Final = 5.0
"""How long handlers may take to end once their connections are cut."""

SETTLE_SECONDS: Final = 0.1
"""How long plugins may not know of answers that the fast lane has given. Told once a second, they kept 70,000 of them
waiting for 30 ms, and the 99th percentile was 22 ms instead of 5."""

_log = structlog.get_logger("server")


class Listener:
    """Serves an application at one address, from `start` to `drain`.

    Args:
        application: answers the requests; may be replaced between requests by giving one that delegates.
    """

    def __init__(self, application: Application, settings: ServerSettings, clock: Clock, metrics: Registry) -> None:
        require_supported_aiohttp()
        self._settings = settings
        self._application = application
        self._handler = Handler(application, settings, clock, metrics)
        self._protocols = ProxyServer(
            self._handler,
            settings=settings,
            refuse=self._handler.refuse,
            lane=self._handler.lane,
            caller=self._handler.caller,
            ways=self._handler.ways,
        )
        self._accepting: list[Acceptor] = []
        self._connecting = Tasks()
        self._own_path = bool(settings.listen.path)
        self._settling: asyncio.TimerHandle | None = None
        metrics.gauge("sidecache_server_open_connections", "Client connections", lambda: len(self._protocols.clients))
        if (lane := self.lane) is not None:
            metrics.gauge("sidecache_fast_lane_replies", "Answers kept ready to be sent", lambda: len(lane))
            metrics.gauge("sidecache_fast_lane_bytes", "What they weigh", lambda: lane.bytes)
            metrics.total("sidecache_fast_lane_hits", "Requests answered by one of them", lambda: lane.hits)
        if (ways := self._handler.ways) is not None:
            passages, recalls = ways.passages, ways.recalls
            metrics.gauge("sidecache_fast_lane_passages", "Known ways to the upstream", lambda: len(passages))
            metrics.total("sidecache_fast_lane_passed", "Requests that went such a way", lambda: passages.passed)
            metrics.total(
                "sidecache_fast_lane_recalled", "Requests answered from the second tier", lambda: recalls.recalled
            )

    @property
    def lane(self) -> FastLane | None:
        """The answers kept ready to be sent; None: none are kept."""
        return self._handler.lane

    def lane_stats(self) -> dict[str, int] | None:
        """What goes past the pipeline: kept answers and their hits, known ways to the upstream and what went there, and
        what the second tier answered. None: nothing does.
        """
        lane, ways = self._handler.lane, self._handler.ways
        return None if lane is None or ways is None else {**lane.stats(), **ways.stats()}

    @property
    def in_flight(self) -> int:
        """Requests being answered, in the pipeline or past it."""
        return self._handler.in_flight

    def connection(self) -> Connection:
        """What serves a client that connects in another way than by the address."""
        return self._protocols()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where clients can connect, ports as the system chose them; empty unless it accepts."""
        return tuple(acceptor.address for acceptor in self._accepting)

    @property
    def draining(self) -> bool:
        """Whether `drain` has begun."""
        return self._protocols.draining

    async def start(self, listening: socket.socket | None = None) -> None:
        """Open the address and accept clients.

        Args:
            listening: a Unix socket that listens already, shared with other processes; it is closed at the end, and
                its path stays.

        Raises:
            OSError: the address cannot be had.
        """
        if listening is not None:
            self._own_path = False
            bound = [listening]
        else:
            bound = await _bound(self._settings)
        try:
            for sock in bound:
                sock.listen(self._settings.backlog)
        except OSError:
            for sock in bound:
                sock.close()
            raise
        self._accepting += [Acceptor(sock, self._protocols, self._connecting) for sock in bound]
        if self.lane is not None:
            self.lane.on_unsettled = self._settle_soon
        _log.info("listening", addresses=[str(address) for address in self.addresses])

    def application_changed(self) -> None:
        """The application's answers are others from now on: what was kept of them is void."""
        if self.lane is not None:
            self.lane.reset(self._application.heeded_fields)
            if self._handler.ways is not None:
                self._handler.ways.reset()
            self._protocols.forget_reply_keys()

    def settle(self) -> None:
        """Have the plugins told of every answer given."""
        if self.lane is not None:
            self.lane.settle()

    def _settle_soon(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._settle_now)

    def _settle_now(self) -> None:
        self._settling = None
        self.settle()

    def stop_accepting(self) -> None:
        """Close the address; clients that are connected are served on."""
        if self._accepting:
            for acceptor in self._accepting:
                acceptor.close()
            self._accepting.clear()
            if self._own_path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._settings.listen.path)  # noqa: PTH108 — a socket, and one system call

    async def drain(self, grace_seconds: float | None = None) -> bool:
        """Accept no more, close idle connections, let requests in flight finish, then cut what is left.

        Args:
            grace_seconds: how long requests may take; None: the setting.

        Returns:
            Whether every request finished in time.
        """
        self.stop_accepting()
        await self._connecting.close(CUT_SECONDS)  # whoever was accepted is then a client
        self._protocols.close_idle()
        grace = self._settings.drain_timeout_seconds if grace_seconds is None else grace_seconds
        late = 0
        if not await _within(grace, self._protocols.wait_until_empty()):
            late = sum(not connection.resting for connection in self._protocols.clients)
            if late:
                _log.warning("cutting connections with requests in flight", connections=late)
            self._protocols.cut()
            await _within(CUT_SECONDS, self._protocols.wait_until_empty())
        await _within(CUT_SECONDS, self._handler.wait_until_quiet())
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        self.settle()
        return not late


async def _bound(settings: ServerSettings) -> list[socket.socket]:
    """Sockets at the address: several if a name has several, or no host is named."""
    listen = settings.listen
    if listen.path:
        remove_stale_socket(Path(listen.path))
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.bind(listen.path)
        except OSError:
            sock.close()
            raise
        return [sock]
    server = await asyncio.get_running_loop().create_server(
        asyncio.Protocol,
        listen.host or None,
        listen.port,
        reuse_port=settings.reuse_port or None,
        start_serving=False,
    )
    duplicates = [socket.socket(fileno=os.dup(bound.fileno())) for bound in server.sockets]
    server.close()
    return duplicates


async def _within(seconds: float, condition: Awaitable[None]) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await condition
    except TimeoutError:
        return False
    return True
