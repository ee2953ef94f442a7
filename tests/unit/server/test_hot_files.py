"""Long answers of the fast lane that are given often: sent from files, which are counted, bounded, and freed."""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.pipeline.replay import ReplayPart
from proxy.server.fast_lane import FastLane
from proxy.server.heads import DirectCaller
from proxy.server.hot_files import LEAST_BYTES, LEAST_USES, MOST_FILES
from proxy.server.kept_reply import JOINED_BODY_BYTES, Wire
from proxy.server.memory_file import MemoryFile
from proxy.storage.node import Use
from tests.support.clock import FakeClock
from tests.support.memory_files import memory_files

HEAD = b"HTTP/1.1 200 OK\r\nAge: %d\r\n\r\n"
BODY = b"x" * LEAST_BYTES


@dataclass
class Used:
    visited: bool = False
    hits: int = 0


@dataclass(eq=False)
class Terms:
    """`Age` changes at each whole second of the clock."""

    began: float
    body: bytes
    uses: Sequence[Use] = field(default_factory=lambda: [Used()])
    is_void: bool = False
    on_void: Callable[[], None] | None = None

    def keeps(self, body: bytes) -> bool:
        return body is self.body

    def void(self) -> None:
        self.is_void = True
        if self.on_void is not None:
            self.on_void()

    def fields(self, now: float) -> tuple[Sequence[tuple[str, str]], float] | None:
        return [("Age", str(int(now - self.began)))], float(int(now) + 1)


class Bench:
    """A lane, and answers that it keeps."""

    def __init__(self, max_bytes: int = 16 << 20) -> None:
        self.clock = FakeClock()
        self.lane = FastLane(self.clock, max_bytes=max_bytes, max_fields=100, max_field_bytes=8_192)
        self.caller = DirectCaller("", lambda: "new")
        self.terms: dict[int, Terms] = {}

    def keep(self, number: int, body: bytes = BODY, parts: Sequence[ReplayPart] = ()) -> Terms:
        terms = self.terms[number] = Terms(self.clock.wall(), body)
        fields = b"".join(b"\r\n%s: x" % part.field.encode() for part in parts)
        head = (HEAD % 0).replace(b"\r\n\r\n", fields + b"\r\n\r\n")
        self.lane.keep(self.head(number), self.caller, terms, parts, head, body)
        return terms

    def head(self, number: int) -> bytes:
        return b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number

    def ask(self, number: int, times: int = 1) -> Wire | None:
        """The last answer of several."""
        for _ in range(times - 1):
            self.lane.answer(self.head(number), self.caller)
        return self.lane.answer(self.head(number), self.caller)

    def heat(self, number: int, body: bytes = BODY, **more: Sequence[ReplayPart]) -> Terms:
        """Keep an answer, and have it asked for often; the next second has begun then."""
        terms = self.keep(number, body, **more)
        self.ask(number, LEAST_USES)
        self.clock.advance(1)
        return terms


def content(wire: Wire | None) -> bytes:
    assert wire is not None
    if isinstance(wire, MemoryFile):
        assert os.pread(wire.descriptor, 2 * wire.size, 0) == b"".join(wire.parts)
        return b"".join(wire.parts)
    return wire if isinstance(wire, bytes) else b"".join(wire)


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    gc.collect()
    before = memory_files()
    yield
    gc.collect()
    assert memory_files() == before


@pytest.mark.parametrize("body", [BODY, b"x" * (JOINED_BODY_BYTES + 1)])  # kept in one piece, and in two
def test_an_answer_that_was_given_often_is_put_into_a_file_at_its_renewal(body: bytes) -> None:
    bench = Bench()
    bench.heat(1, body)
    first = bench.ask(1)
    assert isinstance(first, MemoryFile)
    assert content(first) == HEAD % 1 + body
    assert bench.ask(1, LEAST_USES) is first
    bench.clock.advance(1)
    second = bench.ask(1)
    assert isinstance(second, MemoryFile) and second is not first  # what was sent of the first may be on its way
    assert (content(first), content(second)) == (HEAD % 1 + body, HEAD % 2 + body)


def test_an_answer_that_is_given_less_often_is_not() -> None:
    bench = Bench()
    bench.keep(1)
    for second in range(4):
        wire = bench.ask(1, LEAST_USES - 1)
        assert not isinstance(wire, MemoryFile) and content(wire) == HEAD % second + BODY
        bench.clock.advance(1)


def test_it_has_no_file_once_it_is_given_less_often() -> None:
    bench = Bench()
    before = memory_files()
    bench.heat(1)
    weight = bench.lane.bytes
    assert isinstance(bench.ask(1), MemoryFile)
    assert bench.lane.bytes == weight + len(HEAD % 1) + len(BODY)  # a copy, though the store keeps the body, too
    bench.clock.advance(1)
    assert not isinstance(bench.ask(1), MemoryFile)
    assert (bench.lane.bytes, memory_files()) == (weight, before)


def test_a_short_answer_is_not_put_into_a_file() -> None:
    bench = Bench()
    bench.heat(1, BODY[:-1])
    assert not isinstance(bench.ask(1), MemoryFile)


def test_an_answer_of_which_each_request_makes_something_is_not_either() -> None:
    bench = Bench()
    bench.heat(1, parts=[ReplayPart(check=lambda _: "9", field="RateLimit")])
    wire = bench.ask(1)
    assert not isinstance(wire, MemoryFile)
    assert content(wire) == b"HTTP/1.1 200 OK\r\nAge: 1\r\nRateLimit: 9\r\n\r\n" + BODY


def test_what_was_used_before_the_answer_was_kept_counts_for_nothing() -> None:
    bench = Bench()
    terms = Terms(bench.clock.wall(), BODY, [Used(hits=1_000)])
    bench.lane.keep(bench.head(1), bench.caller, terms, (), HEAD % 0, BODY)
    assert not isinstance(bench.ask(1), MemoryFile)


@pytest.mark.parametrize("end", ["void", "reset"])
def test_a_file_goes_with_its_answer_at_once(end: str) -> None:
    bench = Bench()
    before = memory_files()
    terms = bench.heat(1)
    assert isinstance(bench.ask(1), MemoryFile)
    assert memory_files() == before + 1
    gc.disable()  # freed by reference, not by the collector some day
    try:
        if end == "void":
            terms.void()
        else:
            bench.lane.reset(frozenset())
        assert (bench.lane.bytes, memory_files()) == (0, before)
    finally:
        gc.enable()


def test_files_take_half_of_the_room_and_each_an_eighth_at_most() -> None:
    bench = Bench(max_bytes=16 * LEAST_BYTES)
    share = 2 * LEAST_BYTES - len(HEAD % 0)
    bench.heat(0, b"x" * (share + 1))
    assert not isinstance(bench.ask(0), MemoryFile)
    for number in range(1, 9):
        bench.heat(number, b"x" * share)
        bench.ask(number, LEAST_USES)
    bench.clock.advance(1)
    filed = [isinstance(bench.ask(number), MemoryFile) for number in range(1, 9)]
    assert filed == [True] * 4 + [False] * 4


def test_there_are_not_too_many_of_them() -> None:
    bench = Bench()
    before = memory_files()
    for number in range(MOST_FILES + 3):
        bench.keep(number)
        bench.ask(number, LEAST_USES)
    bench.clock.advance(1)
    filed = [isinstance(bench.ask(number), MemoryFile) for number in range(MOST_FILES + 3)]
    assert filed == [True] * MOST_FILES + [False] * 3
    assert memory_files() == before + MOST_FILES


def test_a_file_that_nobody_asks_for_gives_way() -> None:
    bench = Bench(max_bytes=16 * LEAST_BYTES)
    body = b"x" * (2 * LEAST_BYTES - 100)
    for number in range(4):
        bench.keep(number, body)
        bench.ask(number, LEAST_USES)
    bench.clock.advance(1)
    assert all(isinstance(bench.ask(number), MemoryFile) for number in range(4))  # and there is room for no more
    bench.heat(9, b"y" * len(body))
    assert isinstance(bench.ask(9), MemoryFile)
    assert content(bench.ask(0)) == HEAD % 2 + body  # though its file is gone


def test_an_answer_without_its_file_is_right_when_the_clock_was_set_back() -> None:
    bench = Bench()
    bench.heat(1)
    bench.ask(1)
    bench.heat(2)
    bench.ask(2)
    bench.clock.jump(-1)
    assert content(bench.ask(1)) == HEAD % 1 + BODY


@settings(deadline=None)  # 60 steps that copy up to 64 KB each, on a machine that may be busy
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 4), st.sampled_from(["often", "once", "void", "time"])),
        max_size=60,
    )
)
def test_what_is_counted_is_what_is_there(steps: list[tuple[int, int, str]]) -> None:
    most = 24 * LEAST_BYTES
    bench = Bench(max_bytes=most)
    before = memory_files()
    for number, size, step in steps:
        match step:
            case "time":
                bench.clock.advance(size / 2)
            case "void":
                if number in bench.terms:
                    bench.terms[number].void()
            case _:
                times = LEAST_USES if step == "often" else 1
                if bench.ask(number, times) is None:
                    bench.keep(number, b"%d" % number * (LEAST_BYTES * size // len(b"%d" % number)))
                answered = bench.ask(number)
                terms = bench.terms[number]
                age = int(bench.clock.wall() - terms.began)
                assert answered is None or content(answered) == HEAD % age + terms.body
        replies = {id(one): one for kept in bench.lane._replies for one in kept.values()}
        files = [one.wire for one in replies.values() if isinstance(one.wire, MemoryFile)]
        answered = None
        assert bench.lane.bytes == sum(one.size for one in replies.values()) <= most
        assert sum(file.size for file in files) == bench.lane._hot_files.bytes <= most // 2
        assert memory_files() == before + len(files)
    for terms in bench.terms.values():
        terms.void()
    assert bench.lane.bytes == bench.lane._hot_files.bytes == 0
