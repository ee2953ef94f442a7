"""Heads without parsing them: what is cut out of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.server.heads import MAX_FIELDS_LEFT_OUT, UNLIKE_TAILS, Scissors, lines_of

NAMES = ("cookie", "user-agent")
_PIECES = (
    b"GET /", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"Cookie: a=1", b"User-Agent: x",
    b"\r\nUser-Agent: y", b"\r\ncookie:", b"Host: h", b"\x00", b"\xff", b"\r\n\r\n", b"a",
)  # fmt: skip
heads = st.lists(st.sampled_from(_PIECES), max_size=24).map(b"".join)


@given(st.lists(heads, min_size=1, max_size=6))
def test_what_is_left_of_a_head_is_what_its_lines_make_whatever_came_before(given_heads: list[bytes]) -> None:
    scissors = Scissors(NAMES)
    for head in [*given_heads, *given_heads]:
        front, tail = scissors.cut(head)
        assert front + tail.whole == head
        left, left_out = lines_of(NAMES).subn(b"", head)
        # In what no parser accepts, where the first line is shorter than a version, less may be cut out.
        if head.find(b"\r\n") >= len(b" HTTP/1.1"):
            assert (front + tail.heeded, tail.left_out) == (left, left_out)
        else:
            assert tail.left_out <= left_out
        if left_out > 1 and tail.left_out == left_out:
            one_agent = head.lower().count(b"\r\nuser-agent:") <= 1
            assert tail.sound == (one_agent and left_out <= MAX_FIELDS_LEFT_OUT and tail.whole.startswith(b" "))


@pytest.mark.parametrize(
    ("head", "front", "sound"),
    [
        (b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /a", True),
        (b"GET /a HTTP/1.\r\nHost: h\r\n\r\n", b"GET /", False),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", b"", False),
        (b"GET / HTTP/1.1", b"", False),
    ],
)
def test_a_head_is_parted_before_its_version(head: bytes, front: bytes, sound: bool) -> None:
    found, tail = Scissors(()).cut(head)
    assert (found, tail.whole, tail.sound) == (front, head[len(front) :], sound)


def test_two_agents_and_more_lines_than_may_be_left_out_are_not_sound() -> None:
    scissors = Scissors(NAMES)
    start, end = b"GET / HTTP/1.1", b"\r\nHost: h\r\n\r\n"
    assert scissors.cut(start + b"\r\nUser-Agent: a" + end)[1].sound
    assert not scissors.cut(start + b"\r\nUser-Agent: a" * 2 + end)[1].sound
    assert scissors.cut(start + b"\r\nCookie: a" * MAX_FIELDS_LEFT_OUT + end)[1].sound
    assert not scissors.cut(start + b"\r\nCookie: a" * (MAX_FIELDS_LEFT_OUT + 1) + end)[1].sound


def test_without_names_nothing_is_cut_out() -> None:
    head = b"GET / HTTP/1.1\r\nCookie: a\r\n\r\n"
    front, tail = Scissors(()).cut(head)
    assert (front + tail.heeded, tail.left_out, Scissors(()).cut_out(head)) == (head, 0, [])


def test_heads_that_never_repeat_are_cut_as_those_that_do() -> None:
    scissors = Scissors(NAMES)
    rounds = 3 * UNLIKE_TAILS
    for number in range(rounds):
        start, end = b"GET /%d HTTP/1.1\r\nHost: a" % (number % 3), b"\r\nAccept: b\r\n\r\n"
        head = start + b"\r\nUser-Agent: %d" % number + end
        assert scissors.heeded(head) == start + end
        front, tail = scissors.cut(head)
        assert front + tail.heeded == start + end
        assert (front + tail.whole, tail.left_out, tail.sound) == (head, 1, True)
        assert scissors.heeded(start + b"\r\nUser-Agent: %d" % number * 2 + end) is None
        assert scissors.heeded(start + end) == start + end


def test_what_repeats_again_is_noticed() -> None:
    scissors = Scissors(NAMES)
    head = b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: %d\r\n\r\n"
    for number in range(2 * UNLIKE_TAILS):
        scissors.heeded(head % number)
    tails = set()
    for _ in range(UNLIKE_TAILS**2 + 1):
        repeated = head % 7
        scissors.heeded(repeated)
        tails.add(id(scissors.cut(head % 7)[1]))
    assert len(tails) < UNLIKE_TAILS**2
