"""Takes clients from a listening socket, as many in one turn of the event loop as are waiting."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

import structlog

from proxy.address import Address
from proxy.tasks import Tasks

MOST_AT_ONCE: Final = 256
"""Of clients, in a turn of the event loop: some 12 ms. libuv, beneath uvloop, would take one."""

PAUSE_SECONDS: Final = 1.0
"""For which none is accepted when the system has nothing left for one. They wait in the queue meanwhile."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = structlog.get_logger("server")


class Acceptor:
    """Accepts the clients of one socket, from now until `close`.

    Args:
        listening: a socket that listens; it is closed in the end.
        make_protocol: makes what serves a client.
        tasks: in which clients are connected to that.
    """

    __slots__ = ("_listening", "_loop", "_make_protocol", "_resuming", "_tasks")

    def __init__(self, listening: socket.socket, make_protocol: Callable[[], asyncio.Protocol], tasks: Tasks) -> None:
        self._listening = listening
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._resuming: asyncio.TimerHandle | None = None
        self._tasks = tasks
        listening.setblocking(False)
        # Clients' sockets inherit these, which saves two system calls for each.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if listening.family != socket.AF_UNIX:
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._resume()

    @property
    def address(self) -> Address:
        """Where clients connect."""
        return Address.of(self._listening)

    def close(self) -> None:
        """Accept no more. Those that wait in the system's queue are gone with the last process that has the socket."""
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        else:
            self._loop.remove_reader(self._listening)
        self._listening.close()

    def _resume(self) -> None:
        self._resuming = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(MOST_AT_ONCE):
            try:
                client, _ = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # a client that has left since, or cannot be reached: accept(2)
                _log.error("cannot accept clients", error=error.strerror, pause_seconds=PAUSE_SECONDS)
                self._loop.remove_reader(self._listening)
                self._resuming = self._loop.call_later(PAUSE_SECONDS, self._resume)
                return
            self._tasks.spawn("connect client", self._connect(client))

    async def _connect(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, client)
        except OSError as error:
            client.close()
            _log.debug("client left while it was accepted", error=str(error))
