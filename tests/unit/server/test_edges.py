import asyncio
from unittest.mock import sentinel

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from hypothesis import given
from hypothesis import strategies as st

from proxy.server.edges import NOWHERE, MessageEdges

EMPTY_LINE = b"\r\n\r\n"


def edges_in(chunks: list[bytes]) -> list[int]:
    """Where the edges are that are seen when the chunks come one after the other, counted from the beginning."""
    edges = MessageEdges()
    seen: list[int] = []
    before = 0
    for chunk in chunks:
        start = 0
        while (end := edges.next(chunk, start)) != NOWHERE:
            seen.append(before + end)
            start = end
        edges.passed(chunk)
        before += len(chunk)
    return seen


def test_an_empty_line_ends_a_message() -> None:
    assert edges_in([b"GET / HTTP/1.1\r\n\r\nGET"]) == [18]


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", EMPTY_LINE, b"a", b"ab"]), max_size=12), st.data())
def test_every_empty_line_is_seen_wherever_the_data_is_cut(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    seen = edges_in(chunks)
    ends = [place + 4 for place in range(len(whole)) if whole.startswith(EMPTY_LINE, place)]
    assert seen == sorted(set(seen))
    assert set(seen) <= set(ends)
    apart = {end for end in ends if not any(0 < abs(end - other) < 4 for other in ends)}
    assert apart <= set(seen)


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length"])
def test_a_head_and_all_of_its_body_are_one_piece(name: bytes) -> None:
    head = b"POST / HTTP/1.1\r\n" + name + b": 6\r\nHost: a\r\n\r\n"
    edges = MessageEdges()
    assert edges.next(head + b"a\r\n\r\nb", 0) == NOWHERE
    assert edges.next(b"GET /\r\n\r\n" + head + b"a\r\n\r\nb", 9) == NOWHERE


@pytest.mark.parametrize(
    "line", [b"Content-Length: 5", b"Content-Length: 7", b"X-Content-Length: 6", b"Content-Length: 0006, 6", b"X: a"]
)
def test_what_does_not_look_like_one_piece_is_taken_apart(line: bytes) -> None:
    head = b"POST / HTTP/1.1\r\n" + line + b"\r\nHost: a\r\n\r\n"
    assert MessageEdges().next(head + b"abcdef", 0) == len(head)


async def test_a_body_of_known_length_ends_there_whatever_it_holds() -> None:
    edges = MessageEdges()
    edges.payload = StreamReader(BaseProtocol(asyncio.get_running_loop()), 65_536)
    edges.body_bytes = 10
    assert edges.next(b"ab\r\n\r\ncd", 0) == 10
    edges.payload.feed_data(b"ab\r\n\r\n")
    assert edges.next(b"cdefGET", 0) == 4
    edges.payload.feed_eof()
    assert edges.next(b"GET", 0) == NOWHERE


@pytest.mark.parametrize(
    ("chunks", "payload", "at_edge"),
    [
        ([b"GET / HTTP/1.1\r\n\r\n"], EMPTY_PAYLOAD, True),
        ([b"GET / HTTP/1.1\r\n\r", b"\n"], EMPTY_PAYLOAD, False),
        ([b"POST / HTTP/1.1\r\n\r\n"], sentinel.body, False),
        ([b"GET / HTTP/1.1\r\n"], EMPTY_PAYLOAD, False),
    ],
    ids=["whole", "cut: it could be, and need not be told", "with a body", "half"],
)
def test_a_head_without_a_body_that_ends_the_data_is_an_edge(
    chunks: list[bytes], payload: StreamReader, at_edge: bool
) -> None:
    edges = MessageEdges()
    edges.payload = payload
    assert [edges.passed(chunk) for chunk in chunks][-1] is at_edge


def test_after_a_new_beginning_no_line_goes_on_from_before() -> None:
    edges = MessageEdges()
    edges.passed(b"a\r\n\r")
    assert edges.next(b"\n", 0) == 1
    edges.begin_anew()
    assert edges.next(b"\n", 0) == NOWHERE
