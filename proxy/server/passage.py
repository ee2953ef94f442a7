"""Ways to the upstream and back that are known: bytes in, bytes out (`proxy.pipeline.passage` tells what they are).

Theory of operation. A `Passage` is what was learnt from requests that the pipeline sent on: how such a request looks on
the wire to the upstream, and for each kind of response that came, how it looks on the wire to the client. Kinds are
told apart by all of a response's head but the values of `OWN_FIELDS`. What is learnt is tried out at once on the
exchange that it is learnt from: it has to give, byte for byte, what the pipeline gave.
"""

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import Final, final

from proxy.http.message import from_wire, to_wire
from proxy.pipeline.exchange import Exchange
from proxy.pipeline.passage import MOST_BYTES, OWN_FIELDS, Line, OwnValues, PassagePart, PassageTerms, Ticket
from proxy.server.heads import values_of
from proxy.server.kept_reply import JOINED_BODY_BYTES, Ledger
from proxy.server.under_way import Sent

MOST_KINDS: Final = 32
"""Kinds of responses that are remembered of one passage; the oldest goes."""

STRANGER: Final = 4
MOST_STRANGERS: Final = 1_024
"""A response of no known kind weighs as much as four that are known; when that comes to so much, the way is closed:
more than a fifth of what comes is handed over, each at the price of having been tried."""

MOST_BANDS: Final = 4
"""Kinds with equal heads for bodies of different lengths."""

KIND_OVERHEAD: Final = 2_000

_EMPTY_LINE: Final = b"\r\n\r\n"
_EMPTY_LINE_BYTES: Final = len(_EMPTY_LINE)
_LENGTH_DIGITS: Final = 8
_CUT: Final = values_of(sorted(OWN_FIELDS))


@final
class Kind:
    """Responses that are alike.

    Args:
        pieces: the client's head, cut where values stand.
        order: for each of these, its place among the own values; the made ones come behind.
        names: of the own fields, as the upstream writes them.
        pattern: see `PassageTerms`.
        parts: of the plugins.
        ledger: where they are counted.
        example_bytes: the length of the body that one of them had.

    Attributes:
        checks, notes: of the plugins' parts.
        least_bytes, most_bytes: of their bodies.
    """

    __slots__ = (
        "_order", "_pieces", "checks", "example_bytes", "least_bytes", "ledger", "length_place", "most_bytes", "names",
        "notes", "pattern",
    )  # fmt: skip

    def __init__(
        self, pieces: list[bytes], order: Sequence[int], names: Sequence[str], pattern: object,
        parts: Sequence[PassagePart], ledger: Ledger, example_bytes: int,
    ) -> None:  # fmt: skip
        self._pieces = pieces
        self._order = order
        self.names = names
        self.length_place = [name.lower() for name in names].index("content-length")
        self.pattern = pattern
        self.notes = tuple(part.note for part in parts if part.note is not None)
        self.checks = tuple(part.check for part in parts if part.check is not None)
        self.ledger = ledger
        self.least_bytes = max((part.least_bytes for part in parts), default=0)
        self.most_bytes = min((part.most_bytes for part in parts), default=inf)
        # What became of no body tells nothing of what becomes of one: a decoded body of no bytes is the same as before.
        self.example_bytes = example_bytes
        if example_bytes:
            self.least_bytes = max(self.least_bytes, 1)
        else:
            self.most_bytes = 0

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        return KIND_OVERHEAD + sum(map(len, self._pieces))

    def takes(self, body_bytes: int) -> bool:
        """Whether a body of this length goes the same way."""
        return self.least_bytes <= body_bytes <= self.most_bytes

    def head(self, values: Sequence[bytes]) -> bytes:
        """The client's head with these values: the own ones, and behind them the made ones."""
        pieces = self._pieces.copy()
        pieces[1::2] = [values[place] for place in self._order]
        return b"".join(pieces)


@final
class Arriving:
    """A response's head that has come, of a known kind.

    Args:
        own: the values of its own fields.

    Attributes:
        end: where its body begins in what has come.
        body_bytes: how long that is.
    """

    __slots__ = ("_head", "_made", "_named", "_own", "body_bytes", "end", "kind")

    def __init__(self, kind: Kind, own: list[bytes], end: int, body_bytes: int) -> None:
        self._head = b""  # of the answer, once it was made
        self._made: Sequence[str] = ()  # what it was made with
        self._own = own
        self._named: OwnValues = () if kind.pattern is None else [*zip(kind.names, map(from_wire, own), strict=True)]
        self.kind = kind
        self.end = end
        self.body_bytes = body_bytes

    def answer(self, response: bytes, ticket: Ticket) -> Sent | None:
        """What the client gets for the whole `response`; None: that is for the pipeline to say."""
        body = response[self.end :]
        made = ticket.keep(self.kind.pattern, self._named, body)
        if made is None:
            return None
        head = self._head
        if not head or made != self._made:
            head = self._head = self.kind.head([*self._own, *map(to_wire, made)])
            self._made = made
        return head + body if self.body_bytes <= JOINED_BODY_BYTES else (head, body)


@final
class Passage:
    """How requests that are alike but for their targets go to the upstream, and their responses to the client.

    Args:
        alike: an exchange of such a request.
        request: what goes to the upstream behind the target, up to the lines that nobody heeds.
        host: that the client asked for, as the upstream is told.

    Attributes:
        hopeless: hardly a response is like one before it.
        size: bytes that it counts for.
        used: something went this way since room was last sought.
    """

    __slots__ = (
        "_kinds", "_newest", "_strangers", "_terms", "alike", "hopeless", "host", "line", "request", "size", "used",
    )  # fmt: skip

    def __init__(self, alike: Exchange, line: Line, request: bytes, host: str) -> None:
        self.alike = alike
        self.line = line
        self.request = request
        self.host = host
        self._terms: dict[Hashable, tuple[PassageTerms, tuple[Callable[[], bool], ...]]] = {}
        # Those of equal heads differ in the lengths of bodies.
        self._kinds: dict[tuple[Hashable, bytes], tuple[Kind, ...]] = {}
        self._strangers = 0
        # The head that came last, and what it is: within a second most are equal to the letter.
        self._newest: tuple[bytes, Hashable, Arriving | None] = b"", None, None
        self.hopeless = False
        self.size = KIND_OVERHEAD + len(request)
        self.used = False

    def enter(self, target: str) -> Ticket | None:
        """Leave for a request for `target` to go this way now."""
        for terms, checks in self._terms.values():
            for check in checks:
                if not check():
                    break
            else:
                ticket = terms.enter(target)
                if ticket is not None:
                    if ticket.way in self._terms:
                        return ticket
                    ticket.give_back()
        return None

    def add(self, terms: PassageTerms, key: bytes, kind: Kind) -> None:
        """Know responses of this kind from now on. Any terms let in what goes another way, too, if that is known."""
        self._terms[terms.way] = terms, kind.checks
        place = terms.way, key
        known = self._kinds.get(place, ())
        if any(one.takes(kind.example_bytes) for one in known):  # it went through the pipeline for another reason
            return
        if not known:
            if len(self._kinds) >= MOST_KINDS:
                oldest = next(iter(self._kinds))
                self.size -= sum(one.size for one in self._kinds.pop(oldest)) + len(oldest[1])
            self.size += len(key)
        self._kinds[place] = (kind, *known[: MOST_BANDS - 1])
        self.size += kind.size - sum(one.size for one in known[MOST_BANDS - 1 :])

    def stranger(self) -> None:
        """A response came that is for the pipeline."""
        self._strangers += STRANGER
        self.hopeless = self._strangers >= MOST_STRANGERS

    def _known(self) -> None:
        """A response came that is of a known kind."""
        self.used = True
        if self._strangers:
            self._strangers -= 1

    def recognise(self, response: bytes, way: Hashable) -> Arriving | None:
        """What the `response` is that has begun; None: of no known kind, or its head is not whole."""
        end = response.find(_EMPTY_LINE) + _EMPTY_LINE_BYTES
        if end < _EMPTY_LINE_BYTES:
            return None
        came = response[:end]
        newest, its_way, arriving = self._newest
        if came == newest and way == its_way and arriving is not None:
            self._known()
            return arriving
        parts = _CUT.split(came)
        own = parts[2::3]
        for kind in self._kinds.get((way, _kind_key(parts)), ()):
            body_bytes = _length(own[kind.length_place])
            if kind.takes(body_bytes):
                break
        else:
            self.stranger()
            return None
        self._known()
        arriving = Arriving(kind, own, end, body_bytes)
        self._newest = came, way, arriving
        return arriving


def _kind_key(parts: list[bytes]) -> bytes:
    """What is the same in alike heads: `parts` without the values."""
    same = parts.copy()
    del same[2::3]
    return b"".join(same)


def _length(text: bytes) -> int:
    """A Content-Length; -1 if it is none, of more than goes a known way, or written as the pipeline would not."""
    if not text.isdigit() or len(text) > _LENGTH_DIGITS or (text[:1] == b"0" and text != b"0"):
        return -1
    length = int(text)
    return length if length <= MOST_BYTES else -1


def _names(parts: Sequence[bytes]) -> list[str]:
    return [from_wire(name.strip(b"\r\n:\t ")) for name in parts[1::3]]


def learn_kind(
    response: bytes, sent: bytes, body: bytes, terms: PassageTerms, parts: Sequence[PassagePart], ledger: Ledger
) -> tuple[bytes, Kind] | None:
    """How responses like this one go to the client, and what they have in common.

    Args:
        response: of the upstream, whole.
        sent: the head that the client got.
        body: the same of the body.

    Returns:
        None if it cannot be told.
    """
    end = response.find(_EMPTY_LINE) + _EMPTY_LINE_BYTES
    if end < _EMPTY_LINE_BYTES or response[end:] != body:
        return None
    made = [name.lower() for name in terms.made]
    came = _CUT.split(response[:end])
    went = (values_of(sorted({*OWN_FIELDS, *made})) if made else _CUT).split(sent)
    written = _names(came)
    names, sent_names = [name.lower() for name in written], [name.lower() for name in _names(went)]
    if [name for name in sent_names if name not in made] != names or any(sent_names.count(name) != 1 for name in made):
        return None
    if names.count("content-length") != 1 or names.count("date") != 1:
        return None
    own = iter(range(len(names)))
    order = [len(names) + made.index(name) if name in made else next(own) for name in sent_names]
    pieces = [went[0]]
    for name, following in zip(went[1::3], went[3::3], strict=True):
        pieces[-1] += name
        pieces += (b"", following)
    kind = Kind(pieces, order, written, terms.pattern, parts, ledger, len(body))
    values = came[2::3]
    if _length(values[kind.length_place]) != len(body) or not kind.takes(len(body)):
        return None
    if terms.pattern is not None and len(set(names)) != len(names):
        return None
    by_name = dict(zip(sent_names, went[2::3], strict=True))
    return (_kind_key(came), kind) if kind.head([*values, *(by_name[name] for name in made)]) == sent else None
