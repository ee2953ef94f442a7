"""The fast lane: answers found by the bytes of a request's head. Bytes in, bytes out; it knows no transport.

Theory of operation. The pipeline answers a request from a fresh stored response, and its plugins say under which terms
that answer may be given again (`proxy.pipeline.replay`). It is then kept here, as a `KeptReply` under the head that led
to it. Lane 1: a head that is equal to a kept one, byte for byte. Lane 2: a head that is equal but for whole field lines
that nobody heeds: a load balancer puts a new request id and trace on each request. Such lines are cut out by a regular
expression before heads are compared. That parses nothing: what is left is equal to a head that the parser accepted, and
what is cut out are lines that any parser accepts, wherever they stand among others.

So each head takes the full path twice before a kept answer is given: at first sight it is only remembered (a client
that asks a thousand things once must not push out what others ask for), at second sight the answer is kept. A reply is
dropped when its stored response is removed or replaced, when its freshness ends, or for want of room.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from proxy.clock import Clock
from proxy.pipeline.replay import MOST_NOTES, PASSED_OVER, Journal, ReplayPart, ReplayTerms, Tally
from proxy.server.heads import MAX_FIELDS_LEFT_OUT, Caller, Scissors, stands_alone
from proxy.server.hot_files import HotFiles
from proxy.server.kept_reply import KeptReply, Ledger, Wire, cut_head

MAX_HEAD_BYTES: Final = 8_192
REMEMBERED_HEADS: Final = 16_384
"""Of how many heads it is known that they were seen once. Then one forgets the older half."""

EXACT_TRIES: Final = 32
"""After so many heads in a row that were equal to none, a connection is taken not to repeat itself to the letter."""

MOST_KEYS: Final = 64
"""Of one reply: a client that sends ever new heads, each twice, must not fill the lane with keys of one answer."""

_EMPTY_LINE: Final = b"\r\n\r\n"


class FastLane:
    """The replies of one listener.

    Args:
        max_bytes: what the replies may weigh together.

    Attributes:
        bytes: what they weigh.
        hits: how often one was sent, as of the last `settle`.
        max_head_bytes: of longer heads nothing is known.
        scissors: cut out what the pipeline does not heed.
        on_unsettled: called when an answer is given and all those before it are settled.
    """

    __slots__ = (
        "_hot_files", "_ledgers", "_max_bytes", "_max_fields", "_monotonic", "_older", "_others",
        "_replies", "_seen", "_unsettled", "_wall", "bytes", "hits", "max_head_bytes",
        "on_unsettled", "scissors",
    )  # fmt: skip

    def __init__(self, clock: Clock, *, max_bytes: int, max_fields: int, max_field_bytes: int) -> None:
        self._wall = clock.wall
        self._monotonic = clock.monotonic
        self._ledgers: dict[tuple[tuple[Tally, ...], tuple[Journal[Any], ...]], Ledger] = {}
        self._others: dict[tuple[Tally, ...], Ledger] = {}
        self._unsettled: list[Ledger] = []  # those that the plugins have not been told all of
        self._max_bytes = max_bytes
        self._hot_files = HotFiles(max_bytes // 2)
        self._max_fields = max_fields
        # What is left out of a head is within the limits that the parser keeps, whatever it is.
        self.max_head_bytes = min(MAX_HEAD_BYTES, max_field_bytes)
        self._replies: tuple[dict[bytes, KeptReply], dict[bytes, KeptReply]] = (
            {},
            {},
        )  # of peers not trusted, and trusted
        # Hashes: a head takes up to 8 KB, and one that is taken for another is only kept a little early.
        self._seen: set[int] = set()
        self._older: set[int] = set()
        self.scissors = Scissors(())
        self.bytes = 0
        self.hits = 0
        self.on_unsettled: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len({id(reply) for replies in self._replies for reply in replies.values()})

    def stats(self) -> dict[str, int]:
        """What it holds, and what that did as of the last `settle`."""
        return {"replies": len(self), "bytes": self.bytes, "hits": self.hits}

    def reset(self, heeded: frozenset[str] | None) -> None:
        """Drop everything. The pipeline is another, and heeds these request fields: lower-case names, None: all."""
        for replies in self._replies:
            for reply in set(replies.values()):
                self.drop(reply)
        self._ledgers.clear()
        self._others.clear()
        self._seen.clear()
        self._older.clear()
        self.scissors = Scissors(sorted(PASSED_OVER - heeded) if heeded is not None else ())

    def answer(self, head: bytes, caller: Caller) -> Wire | None:
        """The response to a request with this head, or None: the pipeline answers.

        Args:
            head: what arrived, at a message boundary.
        """
        if len(head) > self.max_head_bytes:
            return None
        replies = self._replies[caller.trusted]
        reply = replies.get(head) if caller.exact_misses < EXACT_TRIES else None
        if reply is None:
            reply = self._equivalent(head, caller, replies)
            if reply is None:
                return None
        else:
            caller.exact_misses = 0
        began = self._monotonic()
        now = self._wall()
        if not reply.since <= now < reply.until and not self._renew(reply, now):
            self.drop(reply)
            return None
        caller.head = head
        wire = reply.wire
        if reply.checks:
            caller.began = began
            wire = reply.asked(caller)
            if wire is None:
                return None
        reply.used = True
        for use in reply.uses:
            use.visited = True
            use.hits += 1
        duration = self._monotonic() - began
        ledger = reply.ledger
        durations = ledger.durations
        if not durations:
            self._open(ledger)
        durations.append(duration)
        ledger.bytes_sent += reply.body_bytes
        for journal, subject in reply.journals:
            notes = journal.notes
            notes.append((subject, caller, head, now, duration))
            if len(notes) >= MOST_NOTES:
                journal.settle()
        return wire

    def _renew(self, reply: KeptReply, now: float) -> bool:
        """See `KeptReply.renew`."""
        if not reply.renew(now):
            return False
        if added := self._hot_files.renewed(reply, now):
            self.bytes += added
            self._make_room(reply)
        return True

    def note(self, ledger: Ledger, seconds: float, bytes_sent: int) -> None:
        """Take note of an answer that was given past the pipeline, and was none of the replies here."""
        if not ledger.durations:
            self._open(ledger)
        ledger.durations.append(seconds)
        ledger.bytes_sent += bytes_sent

    def ledger(self, tallies: tuple[Tally, ...]) -> Ledger:
        """Where answers are counted whose plugins have nothing but these tallies."""
        ledger = self._others.get(tallies)
        if ledger is None:
            ledger = self._others[tallies] = Ledger(tallies, (), kept=False)
        return ledger

    def _open(self, ledger: Ledger) -> None:
        if not self._unsettled and self.on_unsettled is not None:
            self.on_unsettled()
        self._unsettled.append(ledger)

    def settle(self) -> None:
        """Tell the plugins of all replays: soon after `on_unsettled`, and before what they count is read."""
        unsettled, self._unsettled = self._unsettled, []
        for ledger in unsettled:
            answers = ledger.settle()
            if ledger.kept:
                self.hits += answers

    def _equivalent(self, head: bytes, caller: Caller, replies: dict[bytes, KeptReply]) -> KeptReply | None:
        """The reply kept under what is left of `head` without the lines that nobody heeds."""
        heeded = self.scissors.heeded(head)
        reply = None if heeded is None else replies.get(heeded)
        if reply is None:
            return None
        if caller.head != head:
            caller.exact_misses += 1
            return reply
        # The same to the letter, twice in a row: worth a key of its own, if it has none yet.
        caller.exact_misses = 0
        if len(reply.keys) < MOST_KEYS and replies.get(head) is not reply:
            self._add_key(replies, head, reply)
            self._make_room(reply)
        return reply

    def unheeded(self, head: bytes) -> list[bytes]:
        """The lines of `head` that nobody heeds, each with the line end before it."""
        return self.scissors.cut_out(head)

    def wants(self, head: bytes) -> bytes:
        """The key under which the answer to this head is to be kept; empty: it is not.

        Args:
            head: what arrived, at a message boundary, and was not answered here.
        """
        head = self.learnable(head)
        if not head:
            return b""
        digest = hash(head)
        if digest in self._seen or digest in self._older:
            return head
        self._seen.add(digest)
        if len(self._seen) >= REMEMBERED_HEADS // 2:
            self._older, self._seen = self._seen, set()
        return b""

    def learnable(self, head: bytes) -> bytes:
        """What is left of `head` without the lines that nobody heeds, if anything can be learnt from its answer."""
        end = len(head)
        if not 0 < end <= self.max_head_bytes or head.find(_EMPTY_LINE) != end - len(_EMPTY_LINE):
            return b""
        if not head.startswith((b"GET ", b"HEAD ")) or not stands_alone(head):
            return b""
        front, tail = self.scissors.cut(head)
        if tail.left_out > MAX_FIELDS_LEFT_OUT:
            return b""
        head = front + tail.heeded
        return head if head.count(b"\r\n") + MAX_FIELDS_LEFT_OUT <= self._max_fields else b""

    def keep(
        self,
        key: bytes,
        caller: Caller,
        terms: ReplayTerms,
        parts: Sequence[ReplayPart],
        head: bytes,
        body: bytes,
    ) -> bool:
        """Keep an answer that has just been sent.

        Args:
            key: from `wants`.
            head, body: of the response as sent.

        Returns:
            Whether it was kept: not when the terms have ended, or the head does not hold each changing field once.
        """
        now = self._wall()
        changing = terms.fields(now)
        if changing is None or terms.is_void:
            return False
        names = [name for name, _ in changing[0]] + [part.field for part in parts if part.field]
        cut = cut_head(head, names)
        if cut is None:
            return False
        pieces, slots = cut
        reply = KeptReply(terms, parts, pieces, slots, body, self._ledger(parts))
        if reply.size > self._max_bytes // 8:
            return False
        terms.on_void = lambda: self.drop(reply)
        self.bytes += reply.size
        self._add_key(self._replies[caller.trusted], key, reply)
        self._make_room(reply)
        return True

    def _ledger(self, parts: Sequence[ReplayPart]) -> Ledger:
        tallies = tuple(part.tally for part in parts if part.tally is not None)
        journals = tuple(part.journal[0] for part in parts if part.journal is not None)
        ledger = self._ledgers.get((tallies, journals))
        if ledger is None:
            ledger = self._ledgers[tallies, journals] = Ledger(tallies, journals)
        return ledger

    def _add_key(self, replies: dict[bytes, KeptReply], key: bytes, reply: KeptReply) -> None:
        before = replies.get(key)
        if before is not None:
            self.drop(before)
        replies[key] = reply
        reply.keys.append(key)
        reply.size += len(key)
        self.bytes += len(key)

    def drop(self, reply: KeptReply) -> None:
        """Forget `reply`, if it is not forgotten yet."""
        reply.terms.on_void = None
        keys, reply.keys = reply.keys, []
        if not keys:
            return
        self.bytes -= reply.size
        self._hot_files.forget(reply)
        for replies in self._replies:
            for key in keys:
                if replies.get(key) is reply:
                    del replies[key]

    def _make_room(self, keep: KeptReply | None) -> None:
        """Drop the oldest replies, but those that were used since room was last sought get a second chance."""
        while self.bytes > self._max_bytes:
            replies = max(self._replies, key=len)
            key = next(iter(replies))
            oldest = replies.pop(key)
            if oldest.used or oldest is keep:
                oldest.used = False
                replies[key] = oldest
            else:
                oldest.keys = oldest.keys or [key]
                self.drop(oldest)
