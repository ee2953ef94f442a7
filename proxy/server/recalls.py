"""Answers from the second tier by the outline of a request's head (`proxy.pipeline.recall`).

Theory of operation. Under an outline (`proxy.server.outline`) stand the terms on which the cache finds what is stored
for a target, and for each kind of stored response the head that the client gets, cut where values are to be filled in.
What is learnt is tried out at once on the exchange that it is learnt from: it has to give to the letter what the
pipeline gave.
"""

from collections.abc import Callable, Hashable, Sequence
from math import inf
from operator import itemgetter
from typing import Any, Final, final

from proxy.clock import Clock
from proxy.http.message import from_wire
from proxy.pipeline.exchange import Exchange
from proxy.pipeline.passage import PassagePart, Passed
from proxy.pipeline.recall import Recalled, RecallTerms
from proxy.server.application import Application
from proxy.server.fast_lane import FastLane
from proxy.server.heads import Caller, values_of
from proxy.server.kept_reply import JOINED_BODY_BYTES, Ledger
from proxy.server.outline import Outline
from proxy.server.under_way import Client, Sent

_VALUES: Final = slice(1, None, 2)

MOST_OUTLINES: Final = 256
MOST_KINDS: Final = 64
"""Of one outline. The oldest goes."""


@final
class RecallKind:
    """Stored responses that are sent alike.

    Args:
        pieces: the head, cut where values stand.
        order: for each of these, which one of `Recalled.values`.
        parts, ledger: of the plugins.

    Attributes:
        notes: of the parts.
        least_bytes, most_bytes: of their bodies.
    """

    __slots__ = ("_pick", "_pieces", "least_bytes", "ledger", "most_bytes", "notes")

    def __init__(self, pieces: list[bytes], order: Sequence[int], parts: Sequence[PassagePart], ledger: Ledger) -> None:
        self._pieces = pieces
        self._pick: Any = itemgetter(*order)
        self.ledger = ledger
        self.notes = tuple(part.note for part in parts if part.note is not None)
        self.least_bytes = max((part.least_bytes for part in parts), default=0)
        self.most_bytes = min((part.most_bytes for part in parts), default=inf)

    def head(self, values: Sequence[bytes]) -> bytes:
        """The head of one that has these, see `Recalled`."""
        pieces = self._pieces.copy()
        pieces[_VALUES] = self._pick(values)
        return b"".join(pieces)


@final
class Recallable:
    """Requests that are alike but for their targets.

    Args:
        alike: an exchange of such a request.
    """

    __slots__ = ("alike", "kinds", "terms")

    def __init__(self, alike: Exchange, terms: RecallTerms) -> None:
        self.alike = alike
        self.terms = terms
        self.kinds: dict[Hashable, RecallKind] = {}

    def takes(self, name: Hashable, body_bytes: int) -> bool:
        """Whether it is known how a response of this kind is sent whose body has so many bytes."""
        kind = self.kinds.get(name)
        return kind is not None and kind.least_bytes <= body_bytes <= kind.most_bytes


class Waiting:
    """A request for which the second tier is being asked. An `UnderWay`."""

    __slots__ = ("_began", "_book", "_caller", "_client", "_head", "_known", "_over", "_target", "key")

    def __init__(
        self,
        book: "Recalls",
        known: Recallable,
        client: Client,
        caller: Caller,
        head: bytes,
        outline: Outline,
        began: float,
    ) -> None:
        self._book = book
        self._known = known
        self.key = outline.head
        self._target = outline.target
        self._client = client
        self._caller = caller
        self._head = head
        self._began = began
        self._over = False

    def done(self, recalled: Recalled | None) -> None:
        """The second tier has answered."""
        if self._over:
            return
        wire = (
            None
            if recalled is None
            else self._book.wire(self._known, recalled, self._caller, self._head, self._target, self._began)
        )
        if wire is None:
            self.hand_over()
        else:
            self._end()
            self._client.answered(wire)

    def hand_over(self) -> None:
        """See `UnderWay.hand_over`."""
        self._end()
        self._client.taken_over(self._head, self.key)

    def give_up(self) -> None:
        """See `UnderWay.give_up`."""
        self._end()
        self._caller.head = self._head
        self._book.abandoned(self._known.alike, self._caller.make_id(), self._began)

    def _end(self) -> None:
        self._over = True
        del self._book.waiting[self]


class Recalls:
    """The outlines of one listener.

    Args:
        lane: tells heads apart.
        application: says which targets take the same route.
        abandoned: see `Ways`.

    Attributes:
        abandoned: as given.
        recalled: how many requests were answered.
        waiting: those for which the second tier is being asked.
    """

    __slots__ = ("_known", "_lane", "_leads_alike", "_monotonic", "abandoned", "recalled", "waiting")

    def __init__(
        self,
        lane: FastLane,
        clock: Clock,
        application: Application,
        abandoned: Callable[[Exchange, str, float], None],
    ) -> None:
        self._lane = lane
        self._monotonic = clock.monotonic
        self._leads_alike = application.leads_alike
        self._known: tuple[dict[bytes, list[Recallable]], dict[bytes, list[Recallable]]] = ({}, {})  # as the replies
        self.abandoned = abandoned
        self.recalled = 0
        self.waiting: dict[Waiting, None] = {}

    def reset(self) -> None:
        """Forget everything. The pipeline is another."""
        for known in self._known:
            known.clear()
        for waiting in self.waiting:
            waiting.key = b""  # it leaves out what may be heeded by now

    def answer(self, outline: Outline, head: bytes, caller: Caller, client: Client) -> Sent | Waiting | None:
        """The response to a request with this head, or what waits for it; None: somebody else answers."""
        target = outline.target
        for known in self._known[caller.trusted].get(outline.rest, ()):
            if self._leads_alike(known.alike, target):
                break
        else:
            return None
        began = self._monotonic()
        recalled = known.terms.find(target)
        if recalled is None:
            return None
        if isinstance(recalled, tuple):
            return self.wire(known, recalled, caller, head, target, began)
        waiting = Waiting(self, known, client, caller, head, outline, began)
        if not recalled(waiting.done):
            return None
        self.waiting[waiting] = None
        return waiting

    def wire(
        self, known: Recallable, recalled: Recalled, caller: Caller, head: bytes, target: str, began: float
    ) -> Sent | None:
        """The response that `recalled` makes for a request that came at `began`; None: its kind is not known."""
        name, values, body = recalled
        kind = known.kinds.get(name)
        size = len(body)
        if kind is None or size < kind.least_bytes or size > kind.most_bytes:
            return None
        sent = kind.head(values)
        self.recalled += 1
        seconds = self._monotonic() - began
        self._lane.note(kind.ledger, seconds, size)
        for note in kind.notes:
            caller.head = head
            note(Passed(caller, head, target, caller.make_id(), seconds, size))
        return sent + body if size <= JOINED_BODY_BYTES else (sent, body)

    def learn(
        self,
        outline: Outline,
        caller: Caller,
        exchange: Exchange,
        parts: Sequence[PassagePart],
        head: bytes,
        body: bytes,
    ) -> bool:
        """See `Ways.learn`; whether such requests are answered so from now on."""
        terms = exchange.recall
        if terms is None:
            return False
        name, values, stored_body = terms.first
        if body != stored_body:
            return False
        if not all(part.any_target and part.check is None for part in parts):
            return False
        outlines, size = self._known[caller.trusted], len(body)
        known = next((known for known in outlines.get(outline.rest, ()) if known.alike.route is exchange.route), None)
        if known is not None and known.takes(name, size):
            return True  # the pipeline answered for another reason: most come so when L2 has more than L1 can hold
        tallies = tuple(part.tally for part in parts if part.tally is not None)
        kind = learn_kind(terms, head, parts, self._lane.ledger(tallies))
        if kind is None or not kind.least_bytes <= size <= kind.most_bytes:
            return False
        if known is None:
            if len(outlines) >= MOST_OUTLINES:
                del outlines[next(iter(outlines))]
            known = Recallable(exchange.outline(), terms)
            outlines.setdefault(outline.rest, []).append(known)
        if len(known.kinds) >= MOST_KINDS:
            del known.kinds[next(iter(known.kinds))]
        known.kinds[name] = kind
        terms.first = name, values, b""  # the body of one answer is of no more use
        return True


def learn_kind(terms: RecallTerms, head: bytes, parts: Sequence[PassagePart], ledger: Ledger) -> RecallKind | None:
    """How responses like `terms.first` are sent, of which `head` was; None if it cannot be told."""
    sources = [name.lower() for name in (*terms.own, *terms.made)]
    cut = values_of(sorted(sources)).split(head)
    names = [from_wire(name.strip(b"\r\n:\t ")).lower() for name in cut[1::3]]
    if sorted(names) != sorted(sources) or len({*names}) != len(names) or len(names) < 2:
        return None
    pieces = [cut[0]]
    for name, following in zip(cut[1::3], cut[3::3], strict=True):
        pieces[-1] += name
        pieces += (b"", following)
    kind = RecallKind(pieces, [sources.index(name) for name in names], parts, ledger)
    sent = dict(zip(names, cut[2::3], strict=True))
    _, values, _ = terms.first
    again = [*values[: len(terms.own)], *[sent[name.lower()] for name in terms.made]]
    return kind if kind.head(again) == head else None
