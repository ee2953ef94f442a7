"""A connection on a transport that a test holds in its hands."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from typing_extensions import override

from proxy.errors import ProxyError
from proxy.server.clients import ProxyServer
from proxy.server.protocol import ClientGoneError, Connection, WriteTimeoutError
from proxy.server.raw import RawRequest
from proxy.server.settings import ServerSettings
from tests.support.raw_client import request


class HeldTransport(asyncio.Transport):
    """Keeps what is written; `buffered` is what the test says of the socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.buffered = 0
        self.closed = False
        self.aborted = False
        self.ended = False
        self.half_closes = True
        self.turns: list[str] = []  # of reading

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    @override
    def get_write_buffer_size(self) -> int:
        return self.buffered

    @override
    def is_closing(self) -> bool:
        return self.closed

    @override
    def close(self) -> None:
        self.closed = True

    @override
    def abort(self) -> None:
        self.closed = self.aborted = True

    @override
    def can_write_eof(self) -> bool:
        return self.half_closes

    @override
    def write_eof(self) -> None:
        self.ended = True

    @override
    def pause_reading(self) -> None:
        self.turns.append("pause")

    @override
    def resume_reading(self) -> None:
        self.turns.append("resume")


class Bench:
    """A server, one connection, its transport."""

    def __init__(self, **settings: object) -> None:
        self.seen: list[str] = []
        self.handler: Callable[[RawRequest], Awaitable[bool]] = self.answer
        self.server = ProxyServer(
            self.handle,
            settings=ServerSettings.model_validate(settings),
            refuse=lambda error: f"refused {error.status_hint}".encode(),
        )
        self.transport = HeldTransport()
        self.connection = self.server()
        self.connection.connection_made(self.transport)

    async def handle(self, raw: RawRequest) -> bool:
        return await self.handler(raw)

    async def answer(self, raw: RawRequest) -> bool:
        self.seen.append(raw.raw_path)
        assert isinstance(raw.protocol, Connection)
        raw.protocol.send(b"ok ")
        raw.protocol.finish(keep_alive=True)
        return True

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what no event announces: the end of a timer inside."""
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.005)

    def lose(self) -> None:
        self.connection.connection_lost(None)


async def test_more_heads_than_are_taken_apart_are_all_answered() -> None:
    bench = Bench()
    bench.connection.data_received(b"\r\n\r\n" * 70 + request("/1") + request("/2"))
    await bench.until(lambda: len(bench.seen) == 2)
    assert bench.seen == ["/1", "/2"]
    bench.lose()


async def test_nothing_can_be_sent_to_a_client_that_has_left() -> None:
    bench = Bench()
    bench.transport.closed = True
    with pytest.raises(ClientGoneError):
        bench.connection.send(b"x")
    with pytest.raises(ClientGoneError):
        bench.connection.send_eof()
    bench.lose()
    for act in (bench.connection.send, lambda _: bench.connection.send_eof()):
        with pytest.raises(ClientGoneError):
            act(b"x")
    with pytest.raises(ClientGoneError):
        await bench.connection.drain()
    bench.connection.reset()
    await bench.connection.linger()


async def test_large_parts_are_not_joined() -> None:
    bench = Bench()
    bench.connection.send(b"a" * 20_000, b"b")
    assert bench.transport.written == b"a" * 20_000 + b"b"
    bench.lose()


async def test_draining_goes_on_as_long_as_the_client_takes_something(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(write_timeout_seconds=0.01)
    sizes = [1000]

    def less_each_time() -> int:
        sizes.append(sizes[-1] - 1)
        return sizes[-1]

    monkeypatch.setattr(bench.transport, "get_write_buffer_size", less_each_time)
    bench.connection.pause_writing()
    draining = asyncio.ensure_future(bench.connection.drain())
    await bench.until(lambda: len(sizes) > 10)
    assert not draining.done()
    bench.connection.resume_writing()
    await draining
    bench.lose()


async def test_draining_ends_when_the_client_takes_nothing() -> None:
    bench = Bench(write_timeout_seconds=0.02)
    bench.transport.buffered = 1000
    bench.connection.pause_writing()
    with pytest.raises(WriteTimeoutError):
        await bench.connection.drain()
    assert bench.transport.aborted
    bench.lose()


async def test_draining_ends_when_the_client_leaves() -> None:
    bench = Bench()
    bench.connection.pause_writing()
    draining = asyncio.ensure_future(bench.connection.drain())
    await asyncio.sleep(0)
    bench.lose()
    with pytest.raises(ClientGoneError):
        await draining


async def test_idle_connection_with_unsent_bytes_is_reset() -> None:
    bench = Bench(keep_alive_timeout_seconds=0.02)
    bench.transport.buffered = 10
    await bench.until(lambda: bench.transport.aborted)
    bench.lose()


async def test_half_a_head_is_answered_408_when_its_time_is_over() -> None:
    bench = Bench(header_timeout_seconds=0.02)
    bench.connection.data_received(b"GET / HT")
    await bench.until(lambda: bench.transport.closed)
    assert bench.transport.written == b"refused 408"
    bench.lose()


async def test_timer_that_was_put_off_does_not_fire_early() -> None:
    bench = Bench(keep_alive_timeout_seconds=0.8)
    for _ in range(5):
        await asyncio.sleep(0.2)  # together longer than the time-out, each far from it
        bench.connection.data_received(request())
        await bench.until(lambda: bench.connection.resting)
    assert not bench.transport.closed
    await bench.until(lambda: bench.transport.closed)
    bench.lose()


async def test_closing_connection_is_reset_once_its_client_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.server.protocol.LINGER_SECONDS", -0.98)  # the close timer is at least a second more
    bench = Bench(write_timeout_seconds=0.02)
    # Looked at when it is cut; at the end of each round; and, after one that moved something, at the next one's start.
    sizes = [100, 90, 90, 80, 80, 80]
    left = iter(sizes)
    looks: list[int] = []

    def shown() -> int:
        looks.append(next(left))
        return looks[-1]

    monkeypatch.setattr(bench.transport, "get_write_buffer_size", shown)
    bench.connection.cut()
    assert bench.transport.closed
    await bench.until(lambda: bench.transport.aborted)
    assert looks == sizes
    bench.lose()


async def test_lingering_ends_with_the_client_and_drops_what_it_sends() -> None:
    bench = Bench()
    lingering = asyncio.ensure_future(bench.connection.linger())
    await asyncio.sleep(0)
    assert bench.transport.ended
    assert not bench.connection.idle
    bench.connection.data_received(request())
    bench.lose()
    await lingering
    assert bench.seen == []


async def test_lingering_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.server.protocol.LINGER_DRAINING_SECONDS", 0.01)
    bench = Bench()
    bench.transport.half_closes = False
    bench.server.draining = True
    await bench.connection.linger()
    assert not bench.transport.ended
    bench.lose()


async def test_handler_that_raises_ends_the_connection() -> None:
    bench = Bench()

    async def fail(raw: RawRequest) -> bool:
        raise RuntimeError("bug")

    bench.handler = fail
    bench.connection.data_received(request())
    await bench.until(lambda: bench.transport.aborted)
    assert bench.transport.written == b""
    bench.lose()


async def test_body_that_nobody_takes_stops_reading_and_goes_on_when_it_is_taken() -> None:
    bench = Bench()
    bodies: list[bytes] = []
    may_read = asyncio.Event()

    async def read(raw: RawRequest) -> bool:
        assert isinstance(raw.protocol, Connection)
        await may_read.wait()
        bodies.append(await raw.content.read())
        raw.protocol.finish(keep_alive=True)
        return True

    bench.handler = read
    body = bytes(range(256)) * 2048
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    bench.connection.data_received(head + body[:400_000])
    assert bench.transport.turns == ["pause"]
    may_read.set()
    await bench.until(lambda: bench.transport.turns == ["pause", "resume"])
    bench.connection.data_received(body[400_000:] + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
    await bench.until(lambda: len(bodies) == 2)
    assert bodies == [body, b"ab"]
    assert bench.transport.turns == ["pause", "resume"]
    bench.lose()


async def test_client_that_left_is_gone_from_the_server() -> None:
    bench = Bench()
    assert bench.server.clients == {bench.connection}
    waiting = asyncio.ensure_future(bench.server.wait_until_empty())
    await asyncio.sleep(0)
    assert not waiting.done()
    bench.lose()
    await waiting
    assert bench.server.clients == set()


async def test_refusal_to_a_client_that_has_left_is_no_error() -> None:
    bench = Bench()

    def refuse(error: ProxyError) -> bytes:
        bench.transport.closed = True
        return b""

    bench.server.refuse = refuse
    bench.connection.data_received(b"nonsense\r\n\r\n")
    await bench.until(lambda: bench.transport.closed)
    bench.lose()
