"""An answer of the fast lane: bytes ready to be sent, but for what passes with time and what each request adds."""

import re
from collections.abc import Iterable
from math import inf
from typing import Any, Final, TypeAlias

from proxy.http.message import to_wire
from proxy.pipeline.replay import Arrival, Journal, ReplayPart, ReplayTerms, Tally
from proxy.server.memory_file import MemoryFile

Wire: TypeAlias = bytes | tuple[bytes, ...] | MemoryFile

JOINED_BODY_BYTES: Final = 16_384
"""Up to this size head and body are kept as one piece, which costs a copy of the body and saves a part of the write."""

REPLY_OVERHEAD: Final = 1_500


class Ledger:
    """The replays of answers whose plugins count them alike, until the plugins are told.

    Args:
        kept: the answers are kept here; the upstream's, which go past the pipeline like these, are not.
    """

    __slots__ = ("bytes_sent", "durations", "journals", "kept", "tallies")

    def __init__(self, tallies: tuple[Tally, ...], journals: tuple[Journal[Any], ...], *, kept: bool = True) -> None:
        self.kept = kept
        self.tallies = tallies
        self.journals = journals
        self.durations: list[float] = []
        self.bytes_sent = 0

    def settle(self) -> int:
        """Tell the plugins; of how many replays."""
        durations, self.durations = self.durations, []
        bytes_sent, self.bytes_sent = self.bytes_sent, 0
        for tally in self.tallies:
            tally(durations, bytes_sent)
        for journal in self.journals:
            journal.settle()
        return len(durations)


class KeptReply:
    """An answer, ready to be sent but for what passes with time.

    Args:
        pieces: the head, cut where the values of `slots`, names of fields, stand; one piece more than slots.
        ledger: where its replays are counted.

    Attributes:
        wire: the response, in two pieces or a file where the body is long; None before it is renewed for the first
            time, and where values of the checks stand in it: see `asked`.
        since, until: wall seconds between which it is right; a clock may be set back.
        checks, journals: of the plugins' parts.
        body_bytes: what is sent of a body.
        uses: see `ReplayTerms`.
        keys: the heads that it is kept under.
        size: bytes that it counts for, its keys among them.
        used: it was sent since room was last sought.
    """

    __slots__ = (
        "_body", "_filled", "_last", "_only", "_open", "_pieces", "_rest", "_said", "_slots", "_uses_before",
        "body_bytes", "checks", "journals", "keys", "ledger", "since", "size", "terms", "until", "used", "uses", "wire",
    )  # fmt: skip

    def __init__(
        self,
        terms: ReplayTerms,
        parts: Iterable[ReplayPart],
        pieces: list[bytes],
        slots: list[str],
        body: bytes,
        ledger: Ledger,
    ) -> None:
        parts = tuple(parts)
        self.terms = terms
        self.checks = tuple((part.check, bool(part.field)) for part in parts if part.check is not None)
        self.journals = tuple(part.journal for part in parts if part.journal is not None)
        self._only = self.checks[0][0] if len(self.checks) == 1 else None
        self._filled = [part.field for part in parts if part.check is not None and part.field]
        self.ledger = ledger
        self.body_bytes = len(body)
        self.uses = tuple(terms.uses)
        self._uses_before = sum(use.hits for use in self.uses)
        self._pieces = pieces
        self._slots = slots
        self._body = body
        self._open: tuple[tuple[bytes, int], ...] = ()  # what stands before a slot, and the place of its value
        self._rest = b""  # what stands behind the last of these
        self._said: str | tuple[str, ...] | None = None  # what was filled in last
        self._last: Wire | None = None  # what that gave
        self.wire: Wire | None = None
        self.since = inf
        self.until = -inf
        self.keys: list[bytes] = []
        self.used = False
        shared = len(body) > JOINED_BODY_BYTES and terms.keeps(body)
        self.size = REPLY_OVERHEAD + sum(map(len, pieces)) + (0 if shared else len(body))

    def renew(self, now: float) -> bool:
        """Make `wire` as it is at `now`, wall seconds; whether the terms allow it still."""
        changing = self.terms.fields(now)
        if changing is None:
            return False
        self.since = now
        fields, self.until = changing
        values = dict(fields)
        begun: list[tuple[bytes, int]] = []
        piece = self._pieces[0]
        for name, following in zip(self._slots, self._pieces[1:], strict=True):
            if name in values:
                piece += to_wire(values[name]) + following
            else:
                begun.append((piece, self._filled.index(name)))
                piece = following
        self._open = tuple(begun)
        self._rest = piece
        self._said = None
        self.wire = None if begun else self._joined([piece])
        return True

    def uses_since(self) -> int:
        """How often the stored records behind it were used since this was last asked, or it was made."""
        uses = sum(use.hits for use in self.uses)
        before, self._uses_before = self._uses_before, uses
        return uses - before

    @property
    def whole(self) -> tuple[bytes, ...] | None:
        """The pieces of a response that is the same for each request; None for any other."""
        if isinstance(self.wire, bytes):
            return (self.wire,)
        return self.wire if isinstance(self.wire, tuple) else None

    def outdate(self) -> None:
        """Have it renewed before it is sent again."""
        self.wire = None
        self.until = -inf

    def asked(self, caller: Arrival) -> Wire | None:
        """The response to this request, with the values that the checks give for it; None if one of them says no."""
        said = self._ask_each(caller) if self._only is None else self._only(caller)
        if said is None:
            return None
        if not self._open:
            return self.wire
        if said != self._said:  # most who are limited are far from the limit, and are told the same
            self._said = said
            self._last = self._fill((said,) if isinstance(said, str) else said)
        return self._last

    def _ask_each(self, caller: Arrival) -> tuple[str, ...] | None:
        values: list[str] = []
        for check, fills in self.checks:
            value = check(caller)
            if value is None:
                return None
            if fills:
                values.append(value)
        return tuple(values)

    def _fill(self, values: tuple[str, ...]) -> Wire:
        pieces: list[bytes] = []
        for piece, place in self._open:
            pieces += (piece, to_wire(values[place]))
        pieces.append(self._rest)
        return self._joined(pieces)

    def _joined(self, head: list[bytes]) -> bytes | tuple[bytes, ...]:
        if len(self._body) <= JOINED_BODY_BYTES:
            return b"".join((*head, self._body))
        return b"".join(head), self._body


def cut_head(head: bytes, names: list[str]) -> tuple[list[bytes], list[str]] | None:
    """`head` without the values of the fields `names`, in pieces, and the names in their order; None unless each of
    these fields has one line.
    """
    places: list[tuple[int, int, str]] = []
    for name in names:
        lines = list(re.finditer(rb"\r\n(?i:" + re.escape(to_wire(name)) + rb"):[\t ]*([^\r]*)(?=\r\n)", head))
        if len(lines) != 1:
            return None
        places.append((*lines[0].span(1), name))
    places.sort()
    pieces: list[bytes] = []
    end = 0
    for start, stop, _ in places:
        pieces.append(head[end:start])
        end = stop
    pieces.append(head[end:])
    return pieces, [name for _, _, name in places]
