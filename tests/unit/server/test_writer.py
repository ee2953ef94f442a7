"""Responses as bytes."""

import asyncio

import pytest

from proxy.http.message import Response, make_headers
from proxy.server.writer import BodySender, DateField, Frame, Framing, ResponseWriter, UnwritableResponseError
from tests.support.clock import FakeClock
from tests.support.scripted_application import ScriptedStream


class MemorySink:
    """Keeps what is sent, and says that it is full after every `full_after` sends."""

    def __init__(self, full_after: int = 1) -> None:
        self.sent: list[tuple[bytes, ...]] = []
        self.drained = 0
        self._full_after = full_after

    @property
    def writing_paused(self) -> bool:
        return len(self.sent) % self._full_after == 0

    def send(self, *parts: bytes) -> None:
        self.sent.append(parts)

    async def drain(self) -> None:
        self.drained += 1


def writer(clock: FakeClock | None = None) -> ResponseWriter:
    return ResponseWriter(clock or FakeClock(wall=0.0), "me")


def test_head_is_written_in_order() -> None:
    response = Response(200, make_headers([("B", "1"), ("A", "2"), ("B", "3")]), b"xyz", "Fine")
    frame = writer().frame(response, method="GET", version=(1, 1), keep_alive=True)
    assert frame == Frame(
        b"HTTP/1.1 200 Fine\r\nB: 1\r\nA: 2\r\nB: 3\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nVia: 1.1 me\r\n"
        b"Content-Length: 3\r\n\r\n",
        Framing.LENGTH,
        3,
        True,
    )


STREAM = ScriptedStream()
LENGTH = make_headers([("Content-Length", "7")])


@pytest.mark.parametrize(
    ("response", "method", "version", "framing", "length"),
    [
        (Response(200), "GET", (1, 1), Framing.LENGTH, 0),
        (Response(200, body=b"abc"), "GET", (1, 0), Framing.LENGTH, 3),
        (Response(200, body=STREAM), "GET", (1, 1), Framing.CHUNKED, -1),
        (Response(200, body=STREAM), "GET", (1, 0), Framing.CLOSE, -1),
        (Response(200, LENGTH, STREAM), "GET", (1, 0), Framing.LENGTH, 7),
        (Response(200, LENGTH, STREAM), "HEAD", (1, 1), Framing.NONE, 7),
        (Response(200, body=STREAM), "HEAD", (1, 0), Framing.NONE, -1),
        (Response(200, body=b"abc"), "HEAD", (1, 1), Framing.NONE, 3),
        (Response(200), "HEAD", (1, 1), Framing.NONE, -1),
        (Response(304, LENGTH), "GET", (1, 1), Framing.NONE, 7),
        (Response(304, body=b"wrong"), "GET", (1, 1), Framing.NONE, -1),
        (Response(204, LENGTH, b"wrong"), "GET", (1, 1), Framing.NONE, -1),
        (Response(204, LENGTH), "HEAD", (1, 1), Framing.NONE, -1),
    ],
)
def test_framing(response: Response, method: str, version: tuple[int, int], framing: Framing, length: int) -> None:
    frame = writer().frame(response, method=method, version=version, keep_alive=True)
    assert (frame.framing, frame.length) == (framing, length)
    assert frame.keep_alive is (framing is not Framing.CLOSE)
    assert (b"Content-Length" in frame.head) is (length >= 0)
    assert (b"Transfer-Encoding" in frame.head) is (framing is Framing.CHUNKED)


def test_equal_lengths_are_one_and_unequal_ones_an_error() -> None:
    same = make_headers([("Content-Length", "7"), ("Content-Length", "7")])
    assert writer().frame(Response(200, same, STREAM), method="GET", version=(1, 1), keep_alive=True).length == 7
    for values in (["7", "8"], ["7, 7"], ["-1"], ["²"], [""]):
        headers = make_headers([("Content-Length", value) for value in values])
        with pytest.raises(UnwritableResponseError):
            writer().frame(Response(200, headers, STREAM), method="GET", version=(1, 1), keep_alive=True)


def test_switch_and_informational_heads_are_checked_too() -> None:
    bad = make_headers([("A", "b\r\nC: d")])
    with pytest.raises(UnwritableResponseError):
        writer().switch_head(Response(101, bad), "echo")
    with pytest.raises(UnwritableResponseError):
        writer().switch_head(Response(101), "echo\r\nC: d")
    with pytest.raises(UnwritableResponseError):
        writer().informational_head(103, bad)


def test_date_is_made_once_a_second() -> None:
    clock = FakeClock(wall=0.0)
    date = DateField(clock)
    first = date.line()
    clock.advance(0.9)
    assert date.line() is first
    clock.advance(0.1)
    assert date.line() == "Date: Thu, 01 Jan 1970 00:00:01 GMT"
    clock.jump(-1.0)
    assert date.line() == first


async def test_head_and_body_are_one_send() -> None:
    sink = MemorySink()
    sender = BodySender(Frame(b"head", Framing.LENGTH, 4, True), sink)
    await sender.send(b"body")
    assert sink.sent == [(b"head", b"body")]
    assert (sender.sent, sender.head_sent, sink.drained) == (4, True, 1)


async def test_stream_is_drained_as_it_goes_and_empty_parts_end_nothing() -> None:
    sink = MemorySink()
    sender = BodySender(Frame(b"head", Framing.CHUNKED, -1, True), sink)
    await sender.send(ScriptedStream(b"abc", b"", b"0123456789abcdef"))
    assert b"".join(b"".join(parts) for parts in sink.sent) == b"head3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
    assert (sender.sent, sink.drained) == (19, 2)


async def test_nothing_beyond_the_length_is_sent() -> None:
    sink = MemorySink()
    sender = BodySender(Frame(b"head", Framing.LENGTH, 4, True), sink)
    with pytest.raises(UnwritableResponseError):
        await sender.send(ScriptedStream(b"abc", b"de"))
    assert sink.sent == [(b"head",), (b"abc",)]


async def test_body_that_never_waits_lets_others_run() -> None:
    ran: list[bool] = []
    asyncio.get_running_loop().call_soon(ran.append, True)
    sender = BodySender(Frame(b"head", Framing.CHUNKED, -1, True), MemorySink(full_after=1000))
    await sender.send(ScriptedStream(*[bytes(100_000)] * 15))
    assert ran
