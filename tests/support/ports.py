"""Ports for servers that must be told theirs before they run.

The system gives a connection any port of its ephemeral range (from 32768 on Linux), and a port that was free a moment
ago may be a connection's when the server binds it. The ports here lie below that range, and each process of a test run
has its own share of them.
"""

import contextlib
import os
import random
import socket
from typing import Final

BUS_PORT_OFFSET: Final = 10_000
"""A Redis Cluster node listens at its port plus this as well."""

_FIRST: Final = 10_240
_COUNT: Final = 9_600  # with the bus ports above them they end at 29,839


class _Ports:
    """Goes round this process's share, from a place drawn by lot: runs beside this one should not meet it."""

    def __init__(self) -> None:
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        self._count = _COUNT // workers
        self._first = _FIRST + number * self._count
        self._place = random.SystemRandom().randrange(self._count)

    def take(self) -> int:
        self._place = (self._place + 1) % self._count
        return self._first + self._place


_ports: Final = _Ports()


def free_port(*, with_bus: bool = False) -> int:
    """A port that nobody listens at; with `with_bus`, the Cluster bus port above it is free too."""
    while True:
        port = _ports.take()
        with contextlib.suppress(OSError), socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", port))
            if with_bus:
                second.bind(("127.0.0.1", port + BUS_PORT_OFFSET))
            return port
