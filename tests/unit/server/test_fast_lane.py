"""The fast lane as bytes in, bytes out: what it keeps, under which heads, for how long, and in how much room."""

import gc
import random
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import floor, inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.pipeline.replay import MOST_NOTES, PASSED_OVER, Arrival, Journal, Note, ReplayPart
from proxy.server.fast_lane import (
    EXACT_TRIES,
    MAX_HEAD_BYTES,
    MOST_KEYS,
    REMEMBERED_HEADS,
    FastLane,
)
from proxy.server.heads import MAX_FIELDS_LEFT_OUT, Caller, DirectCaller, ReadField, TrustedCaller, lines_of
from proxy.server.kept_reply import JOINED_BODY_BYTES, REPLY_OVERHEAD, Wire
from proxy.server.memory_file import MemoryFile
from proxy.storage.node import Use
from tests.support.clock import FakeClock

RESPONSE = b"HTTP/1.1 200 OK\r\nAge: 0\r\nCache-Status: sidecache;hit;ttl=60\r\nContent-Length: %d\r\n\r\n"
ID = b"X-Request-ID: %d\r\n"


def head(*lines: bytes | str, target: str = "/", method: str = "GET") -> bytes:
    given = [line.encode() if isinstance(line, str) else line for line in lines]
    return b"\r\n".join([f"{method} {target} HTTP/1.1".encode(), b"Host: example.com", *given, b"", b""])


@dataclass
class Visits:
    visited: bool = False
    hits: int = 0


@dataclass(eq=False)
class Terms:
    """Fresh for `seconds` from `began`; `Age` counts, and so does the time left."""

    began: float
    seconds: float = 60.0
    shared: bytes | None = None
    is_void: bool = False
    on_void: Callable[[], None] | None = None
    uses: Sequence[Use] = ()

    def keeps(self, body: bytes) -> bool:
        return body is self.shared

    def void(self) -> None:
        self.is_void = True
        if self.on_void is not None:
            self.on_void()

    def fields(self, now: float) -> tuple[Sequence[tuple[str, str]], float] | None:
        age, ttl = now - self.began, self.began + self.seconds - now
        if self.is_void or ttl <= 0:
            return None
        lasts = min(1.0 - age % 1.0, ttl - floor(ttl), ttl)
        return [("Age", str(int(age))), ("Cache-Status", f"sidecache;hit;ttl={floor(ttl)}")], now + lasts


@dataclass
class Bench:
    """A lane and what stands around it."""

    clock: FakeClock = field(default_factory=FakeClock)
    max_bytes: int = 1_000_000
    max_fields: int = 100
    max_field_bytes: int = MAX_HEAD_BYTES
    heeded: frozenset[str] | None = frozenset()

    def __post_init__(self) -> None:
        self.lane = FastLane(
            self.clock, max_bytes=self.max_bytes, max_fields=self.max_fields, max_field_bytes=self.max_field_bytes
        )
        self.lane.reset(self.heeded)
        self.one = self.caller()

    def caller(self, peer: str = "192.0.2.1", *, trusted: bool = False) -> Caller:
        def find(peer: str, read: ReadField) -> str:
            return read(b"x-forwarded-for") or peer

        return TrustedCaller(peer, find, lambda given: given or "new") if trusted else DirectCaller(peer, lambda: "new")

    def ask(
        self,
        data: bytes,
        body: bytes = b"hello",
        *,
        caller: Caller | None = None,
        terms: Terms | None = None,
        parts: Sequence[ReplayPart] = (),
        response: bytes = b"",
    ) -> Wire | None:
        """What a connection does with `data`: try the lane; else have the full path's answer kept, if it is wanted."""
        caller = caller or self.one
        wire = self.lane.answer(data, caller)
        if wire is None and (key := self.lane.wants(data)):
            self.lane.keep(
                key, caller, terms or Terms(self.clock.wall()), parts, response or RESPONSE % len(body), body
            )
        return wire

    def teach(self, data: bytes, body: bytes = b"hello", **more: object) -> None:
        """Have the answer to `data` kept."""
        assert self.ask(data, body, **more) is None  # type: ignore[arg-type]  # handed on
        assert self.ask(data, body, **more) is None  # type: ignore[arg-type]  # handed on


@pytest.fixture
def bench() -> Bench:
    return Bench()


def joined(wire: Wire | None) -> bytes:
    assert wire is not None
    if isinstance(wire, MemoryFile):
        return b"".join(wire.parts)
    return wire if isinstance(wire, bytes) else b"".join(wire)


# Which heads.


def test_a_head_is_answered_from_its_third_sight_on(bench: Bench) -> None:
    assert [bench.ask(head()) is None for _ in range(4)] == [True, True, False, False]
    assert joined(bench.ask(head())) == RESPONSE % 5 + b"hello"


def test_another_head_is_not_answered(bench: Bench) -> None:
    bench.teach(head())
    assert bench.ask(head("Range: bytes=0-1")) is None
    assert bench.ask(head(target="/other")) is None
    assert bench.ask(head(method="HEAD")) is None
    assert bench.ask(head().replace(b"Host", b"host")) is None


@pytest.mark.parametrize("name", sorted(PASSED_OVER))
def test_a_line_that_nobody_heeds_makes_no_difference(bench: Bench, name: str) -> None:
    bench.teach(head("Accept-Encoding: gzip"))
    for spelt in (name, name.upper(), name.title()):
        for value in ("", "x", " a, b; c=d ", "\t\x7e\xa0\xff", "x" * 5_000):
            line = spelt.encode() + b":" + value.encode("latin-1")
            assert bench.ask(head(line, "Accept-Encoding: gzip")) is not None, line
            assert bench.ask(head("Accept-Encoding: gzip", line)) is not None, line


def test_a_line_that_somebody_heeds_makes_one() -> None:
    bench = Bench(heeded=frozenset({"cookie"}))
    bench.teach(head())
    assert bench.ask(head("User-Agent: x")) is not None
    assert bench.ask(head("Cookie: a=1")) is None


def test_every_line_makes_one_if_somebody_heeds_all() -> None:
    bench = Bench(heeded=None)
    bench.teach(head())
    assert bench.ask(head()) is not None
    assert bench.ask(head("User-Agent: x")) is None


NEAR_MISSES = [
    b"User-Agent : x",  # white space before the colon (RFC 9112 5.1): refused by the parser
    b"User-Agent\t: x",
    b" User-Agent: x",  # goes on with the line before it
    b"User-Agent: x\r\n y",  # goes on in the next line
    b"User-Agent: x\r\n\ty",
    b"User-Agent: x\x00y",
    b"User-Agent: x\ny",
    b"User-Agent: x\ry",
    b"User-Agent: x\x0by",
    b"User-Agent: x\x7f",
    b"User-Agent",
    b"User-Agents: x",
    b"XUser-Agent: x",
    b"User_Agent: x",
    b"X-Request-I: x",
    b"X-Request-IDs: x",
    b"\r\nUser-Agent: x",  # behind the end of the head
    b"User-Agent: x\r\n",
    b"User-Agent: x\r\nuser-agent: y",  # the parser refuses this field twice
    b"User-Agent: x\r\nCookie: a\r\nUSER-AGENT: x",
]


@pytest.mark.parametrize("line", NEAR_MISSES)
def test_what_only_looks_like_such_a_line_is_left_to_the_parser(bench: Bench, line: bytes) -> None:
    bench.teach(head("Accept-Encoding: gzip"))
    for data in (head(line, "Accept-Encoding: gzip"), head("Accept-Encoding: gzip", line)):
        assert bench.lane.answer(data, bench.one) is None


@pytest.mark.parametrize("name", sorted(PASSED_OVER))
def test_the_pattern_of_a_name_matches_it_and_no_part_of_it(name: str) -> None:
    pattern = lines_of(sorted(PASSED_OVER))
    around = (b"GET / HTTP/1.1\r\nHost: a", b"\r\n\r\n")
    line = b"\r\n" + name.encode() + b": x"
    assert pattern.sub(b"", line.join(around)) == b"".join(around)
    for other in {name[:-1], name[1:], name + "x", "x" + name, name.replace("-", "_")} - PASSED_OVER - {""}:
        line = b"\r\n" + other.encode() + b": x"
        assert pattern.sub(b"", line.join(around)) == line.join(around), other


@given(st.lists(st.sampled_from(sorted(PASSED_OVER)), min_size=1, max_size=8, unique=True), st.data())
def test_the_pattern_matches_its_names_alone(names: list[str], data: st.DataObject) -> None:
    pattern = lines_of(sorted(names))
    name = data.draw(st.sampled_from(sorted(PASSED_OVER)))
    line = b"\r\n" + name.encode() + b": x"
    assert (pattern.match(line + b"\r\n\r\n") is not None) == (name in names)


@given(
    st.lists(
        st.sampled_from(
            [b"GET / HTTP/1.1", b"\r\n", b"\r", b"\n", b"Cookie: a", b"cookie:", b" ", b"Host: a", b":", b"x"]
        )
    )
)
@example([b"GET / HTTP/1.1", b"\r\n", b"Host: a", b"\r\n", b"\r\n", b"Cookie: a", b"\r\n", b"x"])
@example([b"GET / HTTP/1.1", b"\r\n", b"Cookie: a", b"\r\n", b" ", b"x", b"\r\n", b"\r\n"])
def test_what_is_cut_out_are_whole_lines(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    kept, dropped = [], 0
    lines = data.split(b"\r\n")
    for place, line in enumerate(lines):
        is_cookie = line[:7].lower() == b"cookie:" and b"\r" not in line and b"\n" not in line
        followed = place + 1 < len(lines) and (lines[place + 1] or place + 2 < len(lines))
        folded = followed and lines[place + 1][:1] in {b" ", b"\t"}
        if place and is_cookie and followed and not folded:
            dropped += 1
        else:
            kept.append(line)
    assert lines_of(["cookie"]).subn(b"", data) == (b"\r\n".join(kept), dropped)


def test_too_many_lines_are_left_to_the_parser_and_its_limits(bench: Bench) -> None:
    bench.teach(head())
    lines = [f"Cookie: {number}" for number in range(MAX_FIELDS_LEFT_OUT + 1)]
    assert bench.lane.answer(head(*lines[1:]), bench.one) is not None
    assert bench.lane.answer(head(*lines), bench.one) is None
    assert bench.ask(head(*lines, target="/2")) is None
    assert bench.lane.wants(head(*lines, target="/2")) == b""


def test_a_head_with_as_many_fields_as_the_parser_takes_is_not_kept() -> None:
    bench = Bench(max_fields=30)
    few = head(*[f"X-{number}: x" for number in range(30 - MAX_FIELDS_LEFT_OUT - 4)])
    bench.teach(few)
    assert bench.ask(few) is not None
    many = head(*[f"X-{number}: x" for number in range(30 - MAX_FIELDS_LEFT_OUT + 1)])
    for _ in range(4):
        assert bench.ask(many) is None


@pytest.mark.parametrize("limit", [500, MAX_HEAD_BYTES])
def test_a_head_longer_than_a_field_may_be_is_not_kept_nor_answered(limit: int) -> None:
    bench = Bench(max_field_bytes=limit)
    bench.teach(head())
    fits = head("Cookie: " + "x" * (limit - len(head()) - len("Cookie: \r\n")))
    assert len(fits) == limit
    assert bench.ask(fits) is not None
    too_long = fits.replace(b"x", b"xx", 1)
    for _ in range(4):
        assert bench.ask(too_long) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"\r\n" + head(),
        head()[:-1],
        head()[:-2],
        head() + b"x",
        head() + head(),
        head() + b"\r\n",
        head(method="POST"),
        head(method="get"),
        head(method="OPTIONS"),
        head("Connection: close"),
        head("connection:upgrade", "Upgrade: websocket"),
        head("Connection: keep-alive, X-Api-Key"),
        head("X-Forwarded-Host: a, b"),
        head("x-forwarded-proto: http", "X-Forwarded-Proto: https"),
    ],
)
def test_what_is_not_one_plain_request_is_never_kept(bench: Bench, data: bytes) -> None:
    for _ in range(4):
        assert bench.ask(data) is None
    assert len(bench.lane) == 0


def test_a_connection_that_says_keep_alive_is_plain(bench: Bench) -> None:
    data = head("Connection: Keep-Alive", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.com")
    bench.teach(data)
    assert bench.ask(data) is not None


def test_peers_that_are_trusted_and_others_share_nothing(bench: Bench) -> None:
    proxy = bench.caller("10.0.0.1", trusted=True)
    bench.teach(head())
    assert bench.ask(head(), caller=proxy) is None
    bench.teach(head(target="/2"), caller=proxy)
    assert bench.lane.answer(head(target="/2"), bench.one) is None
    assert bench.ask(head(target="/2"), caller=proxy) is not None


# Giving up, and keys.


def many_ids(count: int, target: str = "/", start: int = 0) -> list[bytes]:
    return [head(f"X-Request-ID: {number}", target=target) for number in range(start, start + count)]


def test_a_connection_whose_heads_never_repeat_is_answered_all_the_same(bench: Bench) -> None:
    first, *others = many_ids(EXACT_TRIES * 3)
    bench.teach(first)
    for data in others:
        assert bench.ask(data) is not None
    assert bench.one.exact_misses >= EXACT_TRIES


def test_after_giving_up_a_head_without_such_lines_is_answered(bench: Bench) -> None:
    bench.teach(head())
    for data in many_ids(EXACT_TRIES + 1):
        assert bench.ask(data) is not None
    assert bench.ask(head()) is not None
    assert bench.ask(head()) is not None
    assert bench.one.exact_misses == 0


def test_a_head_that_comes_twice_in_a_row_gets_a_key_of_its_own(bench: Bench) -> None:
    bench.teach(head())
    data = head("Cookie: a")
    before = bench.lane.bytes
    assert bench.ask(data) is not None and bench.lane.bytes == before
    assert bench.ask(data) is not None and bench.lane.bytes == before + len(data)
    assert bench.ask(data) is not None and bench.lane.bytes == before + len(data)
    assert len(bench.lane) == 1


def test_a_key_that_is_there_already_is_not_added_again(bench: Bench) -> None:
    terms = Terms(bench.clock.wall())
    bench.teach(head(), terms=terms)
    known = head("Cookie: a")
    for _ in range(2):
        assert bench.ask(known) is not None
    before = bench.lane.bytes
    for data in many_ids(EXACT_TRIES + 1):
        assert bench.ask(data) is not None
    for _ in range(3):  # the exact lane is given up: the key is found missing by nobody
        assert bench.ask(known) is not None
    assert bench.lane.bytes == before
    terms.void()
    assert bench.lane.answer(known, bench.one) is None
    assert bench.lane.bytes == 0 and len(bench.lane) == 0


def test_one_reply_has_so_many_keys_and_no_more(bench: Bench) -> None:
    bench.teach(head())
    for data in many_ids(MOST_KEYS * 3):
        assert bench.ask(data) is not None
        assert bench.ask(data) is not None
    assert bench.lane.bytes < REPLY_OVERHEAD + 1_000 + (MOST_KEYS + 1) * 100


# Room.


def test_a_hundred_thousand_heads_leave_it_within_its_bounds() -> None:
    bench = Bench(max_bytes=200_000)
    bench.teach(head(target="/known"))
    for number in range(100_000):
        data = head(target=f"/{number}")
        assert bench.ask(data) is None
        if number % 10 == 0:  # a tenth of them comes again
            assert bench.ask(data) is None
        if number % 50 == 0:
            assert bench.ask(head(target="/known")) is not None  # what is in use stays
    assert 150_000 < bench.lane.bytes <= 200_000
    bench.lane.reset(frozenset())
    assert bench.lane.bytes == 0 and len(bench.lane) == 0


def test_heads_that_were_seen_once_take_no_room_by_their_length(bench: Bench) -> None:
    filling = "x" * (MAX_HEAD_BYTES - 100)
    tracemalloc.start()
    try:
        for number in range(2_000):
            assert bench.lane.wants(head(f"X: {number}{filling}")) == b""
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    for number in range(REMEMBERED_HEADS * 2):
        bench.lane.wants(head(target=f"/{number}"))
    assert len(bench.lane._seen | bench.lane._older) <= REMEMBERED_HEADS


def test_what_was_seen_long_ago_is_forgotten(bench: Bench) -> None:
    assert bench.lane.wants(head()) == b""
    for number in range(REMEMBERED_HEADS):
        bench.lane.wants(head(target=f"/{number}"))
    assert bench.lane.wants(head()) == b""


def test_a_reply_larger_than_its_share_is_not_kept() -> None:
    bench = Bench(max_bytes=80_000)
    bench.teach(head(), b"x" * 10_000)
    assert bench.ask(head()) is None
    bench.teach(head(target="/2"), b"x" * 7_000)
    assert bench.ask(head(target="/2")) is not None


def test_a_body_that_the_store_keeps_anyhow_counts_for_nothing_if_it_is_sent_apart(bench: Bench) -> None:
    body = b"x" * (JOINED_BODY_BYTES + 1)
    bench.teach(head(), body, terms=Terms(bench.clock.wall(), shared=body))
    assert bench.lane.bytes < 2_000
    wire = bench.ask(head())
    assert isinstance(wire, tuple) and wire[1] is body
    bench.teach(head(target="/2"), body)
    assert bench.lane.bytes > len(body)


def test_what_was_used_gets_a_second_chance() -> None:
    bench = Bench(max_bytes=8 * 2_500)
    heads = [head(target=f"/{number}") for number in range(10)]
    for data in heads:
        bench.teach(data, b"x" * 800)
    assert bench.lane.answer(heads[0], bench.one) is None  # the oldest, never used: gone
    used = next(data for data in heads if bench.lane.answer(data, bench.one) is not None)
    for number in range(100, 106):
        bench.teach(head(target=f"/{number}"), b"x" * 800)
        assert bench.lane.answer(used, bench.one) is not None


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from(["ask", "id", "twice", "void", "trusted", "time"])), max_size=120
    )
)
def test_the_count_of_bytes_is_what_is_there(steps: list[tuple[int, str]]) -> None:
    bench = Bench(max_bytes=16_000)
    proxy = bench.caller("10.0.0.1", trusted=True)
    terms: list[Terms] = []
    for number, step in steps:
        data = head(target=f"/{number}")
        terms.append(Terms(bench.clock.wall()))
        match step:
            case "ask":
                bench.ask(data, terms=terms[-1])
            case "id":
                bench.ask(head(f"Cookie: {len(terms)}", target=f"/{number}"), terms=terms[-1])
            case "twice":
                for _ in range(2):
                    bench.ask(head("Cookie: twice", target=f"/{number}"), terms=terms[-1])
            case "void":
                terms[number % len(terms)].void()
            case "trusted":
                bench.ask(data, caller=proxy, terms=terms[-1])
            case _:
                bench.clock.advance(number)
        replies = {id(one): one for kept in bench.lane._replies for one in kept.values()}
        assert bench.lane.bytes == sum(one.size for one in replies.values()) <= 16_000
        for kept in bench.lane._replies:
            assert all(key in one.keys for key, one in kept.items())
        assert sum(len(one.keys) for one in replies.values()) == sum(map(len, bench.lane._replies))
        assert all(one.terms.on_void is not None for one in replies.values())
    for one in terms:
        one.void()
    assert bench.lane.bytes == 0 and len(bench.lane) == 0


# Its end.


def test_what_is_void_is_gone_at_once_and_its_body_freed(bench: Bench) -> None:
    terms = Terms(bench.clock.wall())
    body = bytes(JOINED_BODY_BYTES + 1)
    references = sys.getrefcount(body)
    bench.teach(head(), body, terms=terms)
    assert bench.ask(head()) is not None
    assert sys.getrefcount(body) > references
    bench.lane.settle()
    gc.disable()  # freed by reference, not by the collector some day
    try:
        terms.void()
        assert bench.lane.answer(head(), bench.one) is None
        assert bench.lane.bytes == 0
        assert sys.getrefcount(body) == references
    finally:
        gc.enable()


def test_what_is_void_before_it_is_kept_is_not_kept(bench: Bench) -> None:
    terms = Terms(bench.clock.wall())
    bench.ask(head())
    terms.void()
    bench.ask(head(), terms=terms)
    assert len(bench.lane) == 0 and bench.lane.bytes == 0


def test_a_reply_ends_with_its_freshness(bench: Bench) -> None:
    bench.teach(head(), terms=Terms(bench.clock.wall(), seconds=10))
    bench.clock.advance(9.999)
    assert b"Age: 9\r\n" in joined(bench.ask(head()))
    bench.clock.advance(0.001)
    assert bench.lane.answer(head(), bench.one) is None
    assert bench.lane.bytes == 0


def test_a_reply_in_place_of_another_drops_it(bench: Bench) -> None:
    old, new = Terms(bench.clock.wall()), Terms(bench.clock.wall())
    bench.teach(head(), b"old", terms=old)
    key = bench.lane.wants(head())
    assert bench.lane.keep(key, bench.one, new, (), RESPONSE % 3, b"new")
    assert joined(bench.ask(head())).endswith(b"new")
    old.void()
    assert joined(bench.ask(head())).endswith(b"new")
    assert len(bench.lane) == 1
    new.void()
    assert bench.lane.bytes == 0


def test_reset_forgets_replies_and_sights_and_takes_other_names(bench: Bench) -> None:
    bench.teach(head())
    bench.lane.wants(head(target="/2"))
    bench.lane.reset(frozenset({"cookie"}))
    assert bench.lane.bytes == 0
    assert bench.lane.answer(head(), bench.one) is None
    assert bench.lane.wants(head(target="/2")) == b""
    bench.teach(head())
    assert bench.ask(head("Cookie: a")) is None


# What passes with time.


@given(
    st.floats(0.001, 20.0),
    st.floats(0, 5),
    st.lists(st.floats(-0.3, 2.5), min_size=1, max_size=40),
)
def test_age_and_ttl_are_right_at_any_time(seconds: float, start: float, steps: list[float]) -> None:
    bench = Bench()
    bench.clock.advance(start)
    terms = Terms(bench.clock.wall(), seconds)
    bench.teach(head(), terms=terms)
    for step in steps:
        bench.clock.jump(step)  # sometimes it is set back
        now = bench.clock.wall()
        wire = bench.lane.answer(head(), bench.one)
        expected = terms.fields(now)
        if wire is None:
            assert expected is None
            break
        assert expected is not None
        assert joined(wire) == (
            b"HTTP/1.1 200 OK\r\nAge: %s\r\nCache-Status: %s\r\nContent-Length: 5\r\n\r\nhello"
            % tuple(value.encode() for _, value in expected[0])
        )


def test_it_is_renewed_no_more_often_than_it_changes(bench: Bench) -> None:
    terms = Terms(bench.clock.wall(), 60.5)
    asked = 0
    fields = terms.fields

    def counted(now: float) -> tuple[Sequence[tuple[str, str]], float] | None:
        nonlocal asked
        asked += 1
        return fields(now)

    terms.fields = counted  # type: ignore[method-assign]  # to count
    bench.teach(head(), terms=terms)
    asked = 0
    for _ in range(100):
        bench.ask(head())
    assert asked == 1


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nAge: 0\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nAge: 0\r\nage: 0\r\nCache-Status: x\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_a_response_without_just_one_line_for_what_changes_is_not_kept(bench: Bench, response: bytes) -> None:
    bench.teach(head(), response=response)
    assert bench.ask(head(), response=response) is None
    assert bench.lane.bytes == 0


# What the plugins say and are told.


def test_a_check_that_says_no_leaves_the_request_to_the_pipeline(bench: Bench) -> None:
    allowed = 2

    def check(arrival: Arrival) -> str | None:
        nonlocal allowed
        allowed -= 1
        return "" if allowed >= 0 else None

    told: list[float] = []
    bench.teach(head(), parts=[ReplayPart(check=check, tally=lambda durations, _: told.extend(durations))])
    assert bench.ask(head()) is not None
    assert bench.ask(head()) is not None
    assert bench.lane.answer(head(), bench.one) is None
    bench.lane.settle()
    assert len(told) == 2 and bench.lane.hits == 2
    allowed = 1
    assert bench.ask(head()) is not None  # it is kept all the while


@pytest.mark.parametrize("size", [0, 5, JOINED_BODY_BYTES, JOINED_BODY_BYTES + 1])
def test_a_field_may_have_a_new_value_in_each_response(bench: Bench, size: int) -> None:
    left = iter((100, 99, 99, 99, 98))
    part = ReplayPart(check=lambda _: f'"a";r={next(left)}', field="RateLimit")
    response = b"HTTP/1.1 200 OK\r\nratelimit: x\r\nAge: 0\r\nCache-Status: x\r\n\r\n"
    body = b"x" * size
    bench.teach(head(), body, parts=[part], response=response)
    for expected in (100, 99, 99):
        assert (
            joined(bench.ask(head()))
            == (
                b'HTTP/1.1 200 OK\r\nratelimit: "a";r=%d\r\nAge: 0\r\nCache-Status: sidecache;hit;ttl=60\r\n\r\n'
                % expected
            )
            + body
        )
    bench.clock.advance(3)
    assert b'ratelimit: "a";r=99\r\nAge: 3\r\n' in joined(bench.ask(head()))
    assert b'ratelimit: "a";r=98\r\nAge: 3\r\n' in joined(bench.ask(head()))


def test_a_check_is_told_when_the_request_came(bench: Bench) -> None:
    told: list[float] = []

    def check(arrival: Arrival) -> str:
        told.append(arrival.began)
        return ""

    bench.teach(head(), parts=[ReplayPart(check=check)])
    for _ in range(2):
        bench.clock.advance(1)
        bench.ask(head())
    now = bench.clock.monotonic()
    assert told == [now - 1, now]


def test_a_field_is_asked_of_each_plugin_and_one_that_says_no_is_enough(bench: Bench) -> None:
    answers: list[str | None] = ["1", "2", None, "1", "2", "1", "3", "1", "3"]
    parts = [ReplayPart(check=lambda _: answers.pop(0), field=name) for name in ("One", "Two")]
    response = b"HTTP/1.1 200 OK\r\nOne: x\r\nTwo: x\r\nAge: 0\r\nCache-Status: x\r\n\r\n"
    bench.teach(head(), b"", parts=parts, response=response)
    assert b"One: 1\r\nTwo: 2\r\n" in joined(bench.lane.answer(head(), bench.one))
    assert bench.lane.answer(head(), bench.one) is None
    for second in (b"2", b"3", b"3"):
        assert b"One: 1\r\nTwo: %b\r\n" % second in joined(bench.lane.answer(head(), bench.one))
    assert answers == []


def test_fields_of_several_plugins_keep_their_places(bench: Bench) -> None:
    parts = [ReplayPart(check=lambda _: "1", field="One"), ReplayPart(check=lambda _: "2", field="Two")]
    response = b"HTTP/1.1 200 OK\r\nTwo: x\r\nAge: 0\r\nOne: x\r\nCache-Status: x\r\n\r\n"
    bench.teach(head(), b"", parts=parts, response=response)
    assert joined(bench.ask(head())).startswith(b"HTTP/1.1 200 OK\r\nTwo: 2\r\nAge: 0\r\nOne: 1\r\nCache-Status: side")


def test_each_replay_is_noted_and_tallied_when_settled(bench: Bench) -> None:
    noted: list[tuple[object, ...]] = []
    tallied: list[tuple[int, int]] = []

    def tell(notes: Sequence[Note[str]]) -> None:
        for subject, arrival, asked, moment, duration in notes:
            arrival.head = asked
            noted.append((subject, arrival.client, arrival.make_id(), moment, duration))

    use = Visits()
    part = ReplayPart(
        journal=(Journal(tell), "this answer"),
        tally=lambda durations, bytes_sent: tallied.append((len(durations), bytes_sent)),
    )
    proxy = bench.caller("10.0.0.1", trusted=True)
    began = bench.clock.wall()
    bench.teach(head(), caller=proxy, parts=[part], terms=Terms(began, uses=[use]))
    bench.ask(head("X-Forwarded-For: 192.0.2.7", "X-Request-ID: seven"), caller=proxy)
    bench.clock.advance(1)
    bench.ask(head("X-Forwarded-For: 192.0.2.8"), caller=proxy)
    assert use.visited
    assert (noted, tallied) == ([], [])
    bench.lane.settle()
    bench.lane.settle()
    assert noted == [
        ("this answer", "192.0.2.7", "seven", began, 0.0),
        ("this answer", "192.0.2.8", "new", began + 1, 0.0),
    ]
    assert tallied == [(2, 2 * len(b"hello"))]
    assert use.hits == 2
    assert bench.lane.hits == 2


def test_a_journal_never_holds_more_than_its_most(bench: Bench) -> None:
    told: list[int] = []
    journal: Journal[int] = Journal(lambda notes: told.append(len(notes)))
    for subject in (1, 2):
        bench.teach(head(target=f"/{subject}"), parts=[ReplayPart(journal=(journal, subject))])
    for number in range(2 * MOST_NOTES + 3):
        bench.ask(head(target=f"/{number % 2 + 1}"))
        assert len(journal.notes) < MOST_NOTES
    assert told == [MOST_NOTES] * 2
    bench.lane.settle()
    assert told == [MOST_NOTES] * 2 + [3]


def test_replays_of_answers_with_the_same_tallies_are_told_of_together(bench: Bench) -> None:
    tallied: list[tuple[Sequence[float], int]] = []
    part = ReplayPart(tally=lambda durations, bytes_sent: tallied.append((durations, bytes_sent)))
    for target in ("/1", "/2"):
        bench.teach(head(target=target), target.encode(), parts=[part])
    for target in ("/1", "/2", "/2"):
        bench.ask(head(target=target))
    bench.lane.settle()
    ((durations, bytes_sent),) = tallied
    assert len(durations) == 3
    assert bytes_sent == 6


def test_it_says_once_that_there_is_something_to_settle_until_that_is_done(bench: Bench) -> None:
    calls: list[int] = []
    bench.lane.on_unsettled = lambda: calls.append(bench.lane.hits)
    for target in ("/1", "/2"):
        for _ in range(4):
            bench.ask(head(target=target))
    assert calls == [0]
    bench.lane.settle()
    assert calls == [0]
    bench.ask(head(target="/1"))
    assert calls == [0, 4]


def test_replays_of_what_is_dropped_since_are_tallied_too(bench: Bench) -> None:
    tallied: list[int] = []
    terms = Terms(bench.clock.wall())
    bench.teach(head(), terms=terms, parts=[ReplayPart(tally=lambda durations, _: tallied.append(len(durations)))])
    bench.ask(head())
    terms.void()
    bench.lane.settle()
    assert tallied == [1]


def test_what_a_peer_that_is_not_trusted_says_of_itself_is_not_believed(bench: Bench) -> None:
    bench.one.head = head("X-Forwarded-For: 192.0.2.7", "X-Request-ID: seven")
    assert (bench.one.client, bench.one.make_id()) == ("192.0.2.1", "new")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (["Traceparent:  a b \t"], "a b"),
        (["TRACEPARENT:a", "X: y", "traceparent: b"], "a, b"),
        (["traceparent:"], ""),
        (["x-traceparent: a", "traceparent-x: b"], None),
        ([b"traceparent: \xff\xc3\xa9"], "\udcff\xe9"),
    ],
)
def test_a_field_of_the_head_can_be_read(bench: Bench, lines: list[bytes | str], expected: str | None) -> None:
    bench.one.head = head(*lines)
    assert bench.one.field(b"traceparent") == expected


def test_a_kept_reply_is_sent_by_nobody_before_it_is_renewed(bench: Bench) -> None:
    bench.teach(head())
    (reply,) = bench.lane._replies[0].values()
    assert reply.wire is None and reply.until == -inf


def test_the_same_sequence_gives_the_same_answers_whatever_is_dropped_meanwhile() -> None:
    rng = random.Random(4)
    bench = Bench(max_bytes=14_000)
    for _ in range(3_000):
        number = rng.randrange(30)
        extra = [f"Cookie: {rng.randrange(3)}"] if rng.random() < 0.5 else []
        data = head(*extra, target=f"/{number}")
        wire = bench.ask(data, b"%d" % number)
        if wire is not None:
            assert joined(wire).endswith(b"\r\n\r\n%d" % number)
        if rng.random() < 0.01:
            bench.clock.advance(rng.random() * 40)
