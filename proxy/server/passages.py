"""The ways to the upstream that are known, and what is under way on them.

Rule: which requests go such a way is decided here; how, in `proxy.server.passage`.

A way is kept under the same key as a kept reply would be: a head without the lines that nobody heeds. These lines go on
to the upstream as they are, but for those that the server makes itself. What is learnt is tried out on the exchange
that it is learnt from, and dropped if it does not give to the letter what the pipeline gave.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from multidict import CIMultiDict

from proxy.clock import Clock
from proxy.http.message import to_wire
from proxy.pipeline.exchange import Exchange
from proxy.pipeline.passage import PassagePart, Transcript, ask_alike
from proxy.pipeline.replay import Tally
from proxy.server.crossing import Crossing
from proxy.server.deadline import Deadline
from proxy.server.fast_lane import FastLane
from proxy.server.forwarding import Forwarding
from proxy.server.heads import Caller, lines_of
from proxy.server.kept_reply import Ledger
from proxy.server.passage import Answer, Passage, learn_kind

if TYPE_CHECKING:
    from proxy.server.protocol import Connection

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
        abandon: take note of a request whose client left.

    Attributes:
        abandoned: as `abandon`.
        bytes: what the ways weigh.
        crossed: how many requests went such a way.
        under_way: those that are on it, the oldest first.
    """

    __slots__ = (
        "_deadline", "_forwarding", "_hopeless", "_lane", "_ledgers", "_lines", "_max_bytes",
        "_monotonic", "_passages", "abandoned", "bytes", "crossed", "under_way",
    )  # fmt: skip

    def __init__(
        self,
        lane: FastLane,
        clock: Clock,
        forwarding: Forwarding,
        abandon: Callable[[Crossing], None],
        *,
        max_bytes: int,
    ) -> None:
        self._lane = lane
        self._forwarding = forwarding
        self.abandoned = abandon
        self._monotonic = clock.monotonic
        self._max_bytes = max_bytes // SHARE
        self._passages: tuple[dict[bytes, Passage], dict[bytes, Passage]] = ({}, {})  # as the lane's replies
        self._hopeless: dict[int, float] = {}  # by hashes: a head takes up to 8 KB
        self._ledgers: dict[tuple[Tally, ...], Ledger] = {}
        self._lines = lru_cache(maxsize=4096)(self._make_lines)
        self._deadline: Deadline | None = None
        self.under_way: dict[Crossing, None] = {}
        self.bytes = 0
        self.crossed = 0

    def __len__(self) -> int:
        return sum(map(len, self._passages))

    def reset(self) -> None:
        """Forget every way. The pipeline is another."""
        for passages in self._passages:
            passages.clear()
        self._hopeless.clear()
        self._ledgers.clear()
        self.bytes = 0
        for crossing in self.under_way:
            crossing.key = b""  # it leaves out what may be heeded by now

    # Going a way.

    def begin(self, head: bytes, caller: Caller, client: "Connection") -> Crossing | None:
        """Send a request with this head the way that is known for it; None: there is none, or it is closed, and nothing
        was done.

        Args:
            head: what arrived, at a message boundary.
        """
        passages = self._passages[caller.trusted]
        if not passages or (heeded := self._lane.heeded(head)) is None:
            return None
        rest, left_out = heeded
        passage = passages.get(rest)
        if passage is None or not passage.open:
            return None
        caller.head = head
        request_id = caller.make_id()
        sent = self._request(passage, head if left_out else b"", caller, request_id)
        crossing = Crossing(self, passage, client, head, request_id, sent, self._monotonic())
        if not crossing.begin():
            return None
        self.under_way[crossing] = None
        if len(self.under_way) == 1:
            self._watch(passage.line.patience_seconds)
        return crossing

    def _request(self, passage: Passage, head: bytes, caller: Caller, request_id: str) -> bytes:
        lines = b"".join(line for line in self._lane.unheeded(head) if not _MADE.match(line + b"\r\n\r"))
        return b"%b%b%b\r\nX-Request-ID: %b\r\n\r\n" % (
            passage.request,
            lines,
            self._told(caller, passage.host),
            request_id.encode("ascii"),
        )

    def _told(self, caller: Caller, host: str) -> bytes:
        """The lines that tell the upstream of the client."""
        if not caller.trusted:
            return self._lines(caller.peer, host, ())
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
        now = self._monotonic()
        for crossing in list(self.under_way):
            left = crossing.began + crossing.passage.line.patience_seconds - now
            if left > 0:
                self._watch(left)
                return
            crossing.hand_over()

    def settle(self, crossing: Crossing, answer: Answer) -> float:
        """Take note of an answer; how many seconds it took."""
        seconds = self._monotonic() - crossing.began
        self._lane.note(answer.ledger, seconds, answer.body_bytes)
        self.crossed += 1
        return seconds

    def settle_all(self) -> None:
        """Tell the plugins of all that went well: a breaker that hears of failures alone opens too soon."""
        self._lane.settle()

    def forget(self, crossing: Crossing) -> None:
        """`crossing` is over."""
        del self.under_way[crossing]

    def hand_over(self) -> None:
        """Let the pipeline go on with everything that is under way."""
        for crossing in list(self.under_way):
            crossing.hand_over()

    # Learning.

    def learn(
        self,
        key: bytes,
        caller: Caller,
        exchange: Exchange,
        parts: Sequence[PassagePart],
        sent: tuple[bytes, bytes],
    ) -> bool:
        """Know the way of an exchange that has just ended.

        Args:
            key: from `FastLane.wants`.
            caller: `caller.head` is the request's.
            sent: head and body as the client got them.

        Returns:
            Whether such a request goes that way from now on.
        """
        transcript, terms = exchange.transcript, exchange.passage
        if transcript is None or terms is None or transcript.line is None or not transcript.reusable:
            return False
        now = self._monotonic()
        if self._hopeless and self._hopeless.get(hash(key), now) > now:
            return False
        known = learn_kind(transcript.received, *sent, parts, self._ledger(parts))
        if known is None:
            return False
        passages = self._passages[caller.trusted]
        passage = passages.get(key)
        if passage is None or passage.line is not transcript.line:
            passage = self._new(key, caller, exchange, parts, transcript)
            if passage is None:
                return False
            self._forget(passages, key)
            passages[key] = passage
            self.bytes += passage.size
        if passage.hopeless:
            self._forget(passages, key)
            self._give_up(key, now)
            return False
        self.bytes -= passage.size
        passage.add(*known)
        self.bytes += passage.size
        self._make_room()
        return True

    def _new(
        self,
        key: bytes,
        caller: Caller,
        exchange: Exchange,
        parts: Sequence[PassagePart],
        transcript: Transcript,
    ) -> Passage | None:
        """The way that `exchange` went; None if it cannot be told from the head alone."""
        assert exchange.passage is not None and transcript.line is not None
        request = transcript.sent
        for line in [*self._lane.unheeded(request), *_MADE.findall(request)]:
            request = request.replace(line, b"", 1)
        host = exchange.request.headers.get("Host", "")
        passage = Passage(key, exchange.outline(), exchange.passage, parts, transcript.line, request[:-4], host)
        tried = self._request(passage, caller.head, caller, exchange.id)
        return passage if ask_alike(tried, transcript.sent) else None

    def _ledger(self, parts: Sequence[PassagePart]) -> Ledger:
        tallies = tuple(part.tally for part in parts if part.tally is not None)
        ledger = self._ledgers.get(tallies)
        if ledger is None:
            ledger = self._ledgers[tallies] = Ledger(tallies, (), kept=False)
        return ledger

    def _give_up(self, key: bytes, now: float) -> None:
        if len(self._hopeless) >= _MOST_HOPELESS:
            del self._hopeless[next(iter(self._hopeless))]
        self._hopeless[hash(key)] = now + HOPELESS_SECONDS

    def _forget(self, passages: dict[bytes, Passage], key: bytes) -> None:
        passage = passages.pop(key, None)
        if passage is not None:
            self.bytes -= passage.size

    def _make_room(self) -> None:
        """Forget the oldest ways, but those that were gone since room was last sought get a second chance."""
        while self.bytes > self._max_bytes:
            passages = max(self._passages, key=len)
            key, oldest = next(iter(passages.items()))
            self._forget(passages, key)
            if oldest.used:
                oldest.used = False
                passages[key] = oldest
                self.bytes += oldest.size
