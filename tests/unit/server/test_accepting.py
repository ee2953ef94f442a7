"""Clients taken from a listening socket: many at once, also when some have left or the system has no room for them."""

import asyncio
import os
import resource
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import pytest
import uvloop
from structlog.testing import capture_logs
from typing_extensions import override

from proxy.server.accepting import MOST_AT_ONCE, Acceptor
from proxy.tasks import Tasks

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Greeter(asyncio.Protocol):
    """Greets whoever is connected."""

    def __init__(self, bench: "Bench") -> None:
        self._bench = bench

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made = cast("asyncio.Transport", transport)  # uvloop's is no `asyncio.Transport` to isinstance
        self._bench.transports.append(made)
        made.write(b"hello")

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        self._bench.lost += 1


class Bench:
    """An acceptor, and its clients, who are connected as soon as the system has them in its queue."""

    def __init__(self) -> None:
        self.transports: list[asyncio.Transport] = []
        self.lost = 0
        self.closed = False
        self.tasks = Tasks()
        listening = socket.create_server(("127.0.0.1", 0), backlog=4 * MOST_AT_ONCE)
        self.acceptor = Acceptor(listening, lambda: Greeter(self), self.tasks)

    def client(self) -> socket.socket:
        address = self.acceptor.address
        return socket.create_connection((address.host, address.port), timeout=10)

    async def close(self) -> None:
        if not self.closed:
            self.acceptor.close()
            self.closed = True
        await self.tasks.close(grace_seconds=10)
        for transport in self.transports:
            transport.abort()
        await until(lambda: self.lost == len(self.transports))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Bench], Awaitable[None]]], None]:
    """Runs a test with a bench, on each kind of event loop."""

    async def with_bench(test: Callable[[Bench], Awaitable[None]]) -> None:
        bench = Bench()
        try:
            await test(bench)
        finally:
            await bench.close()

    def run(test: Callable[[Bench], Awaitable[None]]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(with_bench(test))

    return run


Run = Callable[[Callable[[Bench], Awaitable[None]]], None]


def test_everyone_who_waits_is_served(run: Run) -> None:
    async def test(bench: Bench) -> None:
        with ExitStack() as connected:
            clients = [connected.enter_context(bench.client()) for _ in range(MOST_AT_ONCE + 5)]
            await until(lambda: len(bench.transports) == len(clients))
            assert [client.recv(100) for client in clients] == [b"hello"] * len(clients)

    run(test)


def test_clients_sockets_inherit_their_options(run: Run) -> None:
    async def test(bench: Bench) -> None:
        with bench.client():
            await until(lambda: bool(bench.transports))
            sock = bench.transports[0].get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    run(test)


def test_whoever_left_while_waiting_is_in_nobodys_way(run: Run) -> None:
    async def test(bench: Bench) -> None:
        for _ in range(3):
            with bench.client() as gone:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with bench.client() as client:
            client.setblocking(False)
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), 10) == b"hello"

    run(test)


def test_clients_wait_while_there_are_no_descriptors(run: Run) -> None:
    async def test(bench: Bench) -> None:
        with bench.client() as client, capture_logs() as lines:
            with no_descriptors_left():
                await until(lambda: bool(lines))
                for _ in range(20):  # and the log is not filled with it
                    await asyncio.sleep(0)
            assert [line["event"] for line in lines] == ["cannot accept clients"]
            client.setblocking(False)
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), 10) == b"hello"

    run(test)


@pytest.mark.parametrize("paused", [False, True])
def test_nobody_is_accepted_after_the_end(run: Run, paused: bool) -> None:
    async def test(bench: Bench) -> None:
        with bench.client() as client, capture_logs() as lines:
            if paused:
                with no_descriptors_left():
                    await until(lambda: bool(lines))
            await bench.close()
            with pytest.raises(ConnectionError):
                client.recv(1)  # the system ends those in its queue
            assert not bench.transports

    run(test)
