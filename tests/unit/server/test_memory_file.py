"""A file in memory: sent in its place among what the transport sends, whatever the socket takes of it at once."""

import asyncio
import gc
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import uvloop
from typing_extensions import override

from proxy.server.memory_file import MemoryFile
from tests.support.memory_files import memory_files
from tests.support.wire import WireTransport

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
BODY = bytes(range(256)) * 16_384  # 4 MiB: more than sockets take at once
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def made(*parts: bytes) -> MemoryFile:
    file = MemoryFile.of(parts)
    assert file is not None
    return file


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    gc.collect()
    before = memory_files()
    yield
    assert memory_files() == before


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@asynccontextmanager
async def connected(family: int) -> AsyncIterator[tuple[asyncio.Transport, asyncio.Protocol, socket.socket]]:
    """A transport, and the other end of its connection."""
    loop = asyncio.get_running_loop()
    if family == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ours = socket.create_connection(listening.getsockname())
            theirs, _ = listening.accept()
    theirs.setblocking(False)
    transport, protocol = await loop.create_connection(Lost, sock=ours)
    try:
        with theirs:
            yield transport, protocol, theirs
    finally:
        transport.abort()
        await asyncio.wait_for(protocol.lost.wait(), 10)


class Lost(asyncio.Protocol):
    """Knows when its connection is."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set()


async def read(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = bytearray()
    async with asyncio.timeout(20):
        while len(received) < size and (piece := await loop.sock_recv(sock, 65_536)):
            received += piece
    return bytes(received)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@pytest.mark.parametrize("body", [BODY, BODY[:40_000]])
def test_it_arrives_whole_and_in_its_place(loop: str, family: int, body: bytes) -> None:
    async def test() -> None:
        file = made(HEAD, body)
        async with connected(family) as (transport, _, theirs):
            file.send(transport)
            file.send(transport)  # behind what the socket may not have taken of the first
            transport.write(b"between")
            file.send(transport)
            transport.write(b"last")
            one = HEAD + body
            del file
            assert await read(theirs, 3 * len(one) + 11) == one + one + b"between" + one + b"last"

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(test())


@pytest.mark.parametrize("loop", LOOPS)
def test_what_a_slow_client_does_not_take_waits_in_the_transport(loop: str) -> None:
    async def test() -> None:
        file = made(HEAD, BODY)
        async with connected(socket.AF_UNIX) as (transport, _, theirs):
            file.send(transport)
            waiting = transport.get_write_buffer_size()
            assert 0 < waiting < file.size  # some of it is on its way
            file.send(transport)
            assert transport.get_write_buffer_size() == waiting + file.size
            assert await read(theirs, 2 * file.size) == 2 * (HEAD + BODY)
            assert transport.get_write_buffer_size() == 0

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(test())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_has_left_is_the_transports_to_find_out(loop: str) -> None:
    async def test() -> None:
        file = made(HEAD, BODY)
        async with connected(socket.AF_UNIX) as (transport, _, theirs):
            theirs.close()
            file.send(transport)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(test())


async def test_a_transport_without_a_socket_gets_it_in_pieces() -> None:
    transport = WireTransport("192.0.2.1")
    made(HEAD, BODY).send(transport)
    assert transport.sent == HEAD + BODY


def test_it_is_none_without_a_descriptor() -> None:
    highest = os.dup(0)
    os.close(highest)
    with limited(resource.RLIMIT_NOFILE, highest):
        assert MemoryFile.of([HEAD, BODY]) is None
    assert MemoryFile.of([HEAD, BODY]) is not None


@pytest.mark.parametrize("most", [0, 100_000])
def test_it_is_none_if_not_all_of_it_fits(most: int) -> None:
    with limited(resource.RLIMIT_FSIZE, most):
        assert MemoryFile.of([HEAD, BODY]) is None
