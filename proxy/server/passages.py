"""The ways to the upstream that are known, and what is under way on them.

Rule: which requests go such a way is decided here; how, in `proxy.server.passage`.

A way is kept under an outline: a head without its target and without the lines that nobody heeds. These lines go on to
the upstream as they are, but for those that the server makes itself. What is learnt is tried out on the exchange that
it is learnt from, and dropped if it does not give to the letter what the pipeline gave.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from multidict import CIMultiDict

from proxy.clock import Clock
from proxy.http.message import to_wire
from proxy.pipeline.exchange import Exchange
from proxy.pipeline.passage import PassagePart, Passed, Transcript, ask_alike
from proxy.server.application import Application
from proxy.server.crossing import Crossing
from proxy.server.deadline import Deadline
from proxy.server.fast_lane import FastLane
from proxy.server.forwarding import Forwarding
from proxy.server.heads import Caller, lines_of
from proxy.server.outline import Outline
from proxy.server.passage import Arriving, Passage, learn_kind
from proxy.server.under_way import Client

SHARE: Final = 8
"""One part in so many of the fast lane's bytes is for ways."""

HOPELESS_SECONDS: Final = 60.0
"""So long nothing is learnt about requests whose responses were all of different kinds."""

_MOST_HOPELESS: Final = 10_000
_REMEMBERED_BYTES: Final = 256  # of what a proxy says of its client: longer lists are not remembered
_MADE: Final = lines_of(sorted({
    "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip",
    "x-request-id",
}))  # fmt: skip
"""The lines that the server writes anew for the upstream."""


class Passages:
    """The ways of one listener.

    Args:
        lane: tells heads apart.
        forwarding: what the upstream is told of the client.
        application: says which targets take the same route.
        abandoned: see `Ways`.

    Attributes:
        abandoned: as given.
        monotonic: the clock's.
        bytes: what the ways weigh.
        passed: how many requests went such a way.
        under_way: those that are on it, the oldest first.
    """

    __slots__ = (
        "_deadline", "_forwarding", "_hopeless", "_lane", "_leads_alike", "_lines", "_max_bytes", "_passages",
        "abandoned", "bytes", "monotonic", "passed", "under_way",
    )  # fmt: skip

    def __init__(
        self,
        lane: FastLane,
        clock: Clock,
        forwarding: Forwarding,
        application: Application,
        abandoned: Callable[[Exchange, str, float], None],
        *,
        max_bytes: int,
    ) -> None:
        self._lane = lane
        self._forwarding = forwarding
        self._leads_alike = application.leads_alike
        self.abandoned = abandoned
        self.monotonic = clock.monotonic
        self._max_bytes = max_bytes // SHARE
        self._passages: tuple[dict[bytes, list[Passage]], dict[bytes, list[Passage]]] = ({}, {})  # as the replies
        self._hopeless: dict[int, float] = {}  # by hashes: a head takes up to 8 KB
        self._lines = lru_cache(maxsize=4096)(self._make_lines)
        self._deadline: Deadline | None = None
        self.under_way: dict[Crossing, None] = {}
        self.bytes = 0
        self.passed = 0

    def __len__(self) -> int:
        return sum(len(routes) for passages in self._passages for routes in passages.values())

    def reset(self) -> None:
        """Forget every way. The pipeline is another."""
        for passages in self._passages:
            passages.clear()
        self._hopeless.clear()
        self.bytes = 0
        for crossing in self.under_way:
            crossing.outline = None  # it leaves out what may be heeded by now

    # Going a way.

    def begin(self, outline: Outline, head: bytes, caller: Caller, client: Client) -> Crossing | None:
        """Send a request with this head the way that is known for it; None: there is none, or it is closed, and nothing
        was done.
        """
        passage = self._find(outline, caller)
        if passage is None:
            return None
        if passage.hopeless:
            self._give_up(outline, caller)
            return None
        ticket = passage.enter(outline.target)
        if ticket is None:
            return None
        crossing = None
        try:
            caller.head = head
            request_id = caller.make_id()
            sent = self._request(passage, outline.front, head if outline.has_more else b"", caller, request_id)
            now = self.monotonic()
            crossing = Crossing(self, passage, ticket, client, caller, outline, head, request_id, sent, now)
            crossing.carrier = passage.line.begin(sent, crossing)
        finally:
            if crossing is None or crossing.carrier is None:
                ticket.give_back()
        if crossing.carrier is None:
            return None
        under_way = self.under_way
        under_way[crossing] = None
        if len(under_way) == 1:
            self._watch(passage.line.patience_seconds)
        return crossing

    def _find(self, outline: Outline, caller: Caller) -> Passage | None:
        for passage in self._passages[caller.trusted].get(outline.rest, ()):
            if self._leads_alike(passage.alike, outline.target):
                return passage
        return None

    def _request(self, passage: Passage, front: bytes, head: bytes, caller: Caller, request_id: str) -> bytes:
        """What goes to the upstream.

        Args:
            front: method and target.
            head: of the request, if it has lines that nobody heeds.
        """
        lines = b""
        if head:
            lines = b"".join(line for line in self._lane.unheeded(head) if not _MADE.match(line + b"\r\n\r"))
        return b"%b%b%b%b\r\nX-Request-ID: %b\r\n\r\n" % (
            front,
            passage.request,
            lines,
            self._told(caller, passage.host) if caller.trusted else self._lines(caller.peer, passage.host, ()),
            request_id.encode("ascii"),
        )

    def _told(self, caller: Caller, host: str) -> bytes:
        """The lines that tell the upstream of the client of a trusted proxy."""
        names = (b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
        said = tuple((name.decode(), caller.field(name)) for name in names)
        long = sum(len(value) for _, value in said if value is not None) > _REMEMBERED_BYTES
        return (self._make_lines if long else self._lines)(caller.peer, host, said)

    def _make_lines(self, peer: str, host: str, said: tuple[tuple[str, str | None], ...]) -> bytes:
        headers = CIMultiDict([(name, value) for name, value in said if value is not None])
        self._forwarding.apply(headers, peer=peer, scheme="http", host=host)
        return b"".join(to_wire(f"\r\n{name}: {value}") for name, value in headers.items())

    def _watch(self, seconds: float) -> None:
        if self._deadline is None:
            self._deadline = Deadline(asyncio.get_running_loop(), self._look)
        self._deadline.set(seconds)

    def _look(self) -> None:
        """Hand over what has waited for too long."""
        now = self.monotonic()
        for crossing in list(self.under_way):
            left = crossing.began + crossing.passage.line.patience_seconds - now
            if left > 0:
                self._watch(left)
                return
            crossing.hand_over()

    def note(self, crossing: Crossing, arriving: Arriving, seconds: float) -> None:
        """Take note of a response that took so many seconds."""
        kind = arriving.kind
        self._lane.note(kind.ledger, seconds, arriving.body_bytes)
        self.passed += 1
        for note in kind.notes:
            arrival = crossing.caller
            note(Passed(arrival, crossing.head, crossing.target, crossing.request_id, seconds, arriving.body_bytes))

    def settle_all(self) -> None:
        """Tell the plugins of all that went well: a breaker that hears of failures alone opens too soon."""
        self._lane.settle()

    def forget(self, crossing: Crossing) -> None:
        """`crossing` is over."""
        del self.under_way[crossing]

    # Learning.

    def learn(
        self,
        outline: Outline,
        caller: Caller,
        exchange: Exchange,
        parts: Sequence[PassagePart],
        head: bytes,
        body: bytes,
    ) -> bool:
        """See `Ways.learn`; whether such a request goes that way from now on."""
        transcript, terms = exchange.transcript, exchange.passage
        if transcript is None or terms is None or transcript.line is None or not transcript.reusable:
            return False
        if not all(part.any_target for part in parts) or self._is_hopeless(outline.rest):
            return False
        tallies = tuple(part.tally for part in parts if part.tally is not None)
        known = learn_kind(transcript.received, head, body, terms, parts, self._lane.ledger(tallies))
        if known is None:
            return False
        passage = self._find(outline, caller)
        if passage is None or passage.line is not transcript.line:
            passage = self._new(outline, caller, exchange, transcript)
            if passage is None:
                return False
            self._passages[caller.trusted].setdefault(outline.rest, []).append(passage)
            self.bytes += passage.size + len(outline.rest)
        self.bytes -= passage.size
        passage.add(terms, *known)
        self.bytes += passage.size
        self._make_room()
        return True

    def _new(self, outline: Outline, caller: Caller, exchange: Exchange, transcript: Transcript) -> Passage | None:
        """The way that `exchange` went; None if it cannot be told from the head alone."""
        assert transcript.line is not None
        request = transcript.sent
        for line in [*self._lane.unheeded(request), *_MADE.findall(request)]:
            request = request.replace(line, b"", 1)
        front = outline.front
        if not request.startswith(front + b" "):
            return None
        host = exchange.request.headers.get("Host", "")
        passage = Passage(exchange.outline(), transcript.line, request[len(front) : -4], host)
        tried = self._request(passage, front, caller.head, caller, exchange.id)
        return passage if ask_alike(tried, transcript.sent) else None

    def _is_hopeless(self, rest: bytes) -> bool:
        return bool(self._hopeless) and self._hopeless.get(hash(rest), 0.0) > self.monotonic()

    def _give_up(self, outline: Outline, caller: Caller) -> None:
        self._forget(self._passages[caller.trusted], outline.rest)
        if len(self._hopeless) >= _MOST_HOPELESS:
            del self._hopeless[next(iter(self._hopeless))]
        self._hopeless[hash(outline.rest)] = self.monotonic() + HOPELESS_SECONDS

    def _forget(self, passages: dict[bytes, list[Passage]], rest: bytes) -> list[Passage]:
        forgotten = passages.pop(rest, [])
        self.bytes -= sum(passage.size + len(rest) for passage in forgotten)
        return forgotten

    def _make_room(self) -> None:
        """Forget the oldest ways, but those that were gone since room was last sought get a second chance."""
        while self.bytes > self._max_bytes:
            passages = max(self._passages, key=len)
            rest = next(iter(passages))
            for passage in self._forget(passages, rest):
                if passage.used:
                    passage.used = False
                    passages.setdefault(rest, []).append(passage)
                    self.bytes += passage.size + len(rest)
