"""Ways to the upstream and back that are known: bytes in, bytes out (`proxy.pipeline.passage` tells what they are).

Theory of operation. A `Passage` is what was learnt from requests that the pipeline sent on: how such a request looks on
the wire to the upstream, and for each kind of response that came, how it looks on the wire to the client. Kinds are
told apart by all of a response's head but the values of `OWN_FIELDS`. What is learnt is tried out at once on the
exchange that it is learnt from: it has to give, byte for byte, what the pipeline gave.
"""

from collections.abc import Sequence
from enum import Enum
from math import inf
from typing import Final, final

from proxy.pipeline.exchange import Exchange
from proxy.pipeline.passage import MOST_BYTES, OWN_FIELDS, Line, PassagePart, PassageTerms
from proxy.server.heads import values_of
from proxy.server.kept_reply import JOINED_BODY_BYTES, Ledger

MOST_KINDS: Final = 8
"""Kinds of responses to one request that are remembered; the oldest goes."""

PASSAGE_OVERHEAD: Final = 3_000

_EMPTY_LINE: Final = b"\r\n\r\n"
_LENGTH_DIGITS: Final = 8
_CUT: Final = values_of(sorted(OWN_FIELDS))


@final
class Kind:
    """Responses that are alike.

    Args:
        pieces: the client's head, cut where the values of own fields stand.
        ledger: where they are counted.
        least_bytes, most_bytes: of their bodies.

    Attributes:
        other: the kind whose heads are alike, too, but whose bodies are of other lengths.
        others: how many kinds follow so.
    """

    __slots__ = ("least_bytes", "ledger", "length_place", "most_bytes", "other", "others", "pieces")

    def __init__(
        self, pieces: list[bytes], length_place: int, ledger: Ledger, least_bytes: int, most_bytes: float
    ) -> None:
        self.pieces = pieces
        self.length_place = length_place
        self.ledger = ledger
        self.least_bytes = least_bytes
        self.most_bytes = most_bytes
        self.other: Kind | None = None
        self.others = 0

    @property
    def size(self) -> int:
        """Bytes that it counts for, the others among them."""
        return sum(map(len, self.pieces)) + (self.other.size if self.other is not None else 0)

    def fit(self, body_bytes: int) -> "Kind | None":
        """This kind, or another one with such heads, for a body of this length."""
        kind: Kind | None = self
        while kind is not None and not kind.least_bytes <= body_bytes <= kind.most_bytes:
            kind = kind.other
        return kind

    def head(self, values: Sequence[bytes]) -> bytes:
        """The client's head for a response with these values in its own fields."""
        pieces = self.pieces.copy()
        pieces[1::2] = values
        return b"".join(pieces)


class More(Enum):
    """What there is to say of a part of a response."""

    MORE = "it is of a known kind, and there is more to come"


@final
class Answer:
    """What the client is to get.

    Attributes:
        ledger: where it is to be counted.
    """

    __slots__ = ("body_bytes", "ledger", "wire")

    def __init__(self, wire: bytes | tuple[bytes, ...], ledger: Ledger, body_bytes: int) -> None:
        self.wire = wire
        self.ledger = ledger
        self.body_bytes = body_bytes


@final
class Passage:
    """How requests that are alike go to the upstream, and their responses to the client.

    Args:
        alike: the exchange that it was learnt from.
        request: how such a request begins, up to the lines that nobody heeds.
        host: that the client asked for, as the upstream is told.

    Attributes:
        size: bytes that it counts for.
        used: something went this way since room was last sought.
    """

    __slots__ = ("_checks", "_kinds", "_strangers", "_terms", "alike", "host", "key", "line", "request", "size", "used")

    def __init__(
        self,
        key: bytes,
        alike: Exchange,
        terms: PassageTerms,
        parts: Sequence[PassagePart],
        line: Line,
        request: bytes,
        host: str,
    ) -> None:
        self.key = key
        self.alike = alike
        self.line = line
        self.request = request
        self.host = host
        self._terms = terms
        self._checks = tuple(part.check for part in parts if part.check is not None)
        self._kinds: dict[bytes, Kind] = {}
        self._strangers = 0
        self.size = PASSAGE_OVERHEAD + len(key) + len(request)
        self.used = False

    @property
    def open(self) -> bool:
        """Whether a request may go this way now."""
        return self._terms.hold() and all(check() for check in self._checks)

    @property
    def hopeless(self) -> bool:
        """Whether hardly a response is like one before it."""
        return self._strangers > 2 * MOST_KINDS

    def add(self, key: bytes, kind: Kind) -> None:
        """Know responses of this kind from now on."""
        known = self._kinds.get(key)
        if known is not None and known.fit(kind.least_bytes) is not None:  # it took the pipeline for another reason
            return
        self._strangers += 1
        if known is not None:
            self.size -= len(key) + known.size
            if known.others < MOST_KINDS:
                kind.other, kind.others = known, known.others + 1
        elif len(self._kinds) >= MOST_KINDS:
            oldest = next(iter(self._kinds))
            self.size -= len(oldest) + self._kinds.pop(oldest).size
        self._kinds[key] = kind
        self.size += len(key) + kind.size

    def answer(self, response: bytes) -> Answer | More | None:
        """What the client gets for a `response`; None if it is of no known kind.

        Args:
            response: all that has come so far.
        """
        end = response.find(_EMPTY_LINE) + len(_EMPTY_LINE)
        if end < len(_EMPTY_LINE):
            return None
        parts = _CUT.split(response[:end])
        kind = self._kinds.get(_kind_key(parts))
        if kind is None:
            return None
        values = parts[2::3]
        body_bytes = _length(values[kind.length_place])
        if not kind.least_bytes <= body_bytes <= kind.most_bytes:
            kind = kind.fit(body_bytes)
        if kind is None or len(response) - end > body_bytes:
            return None
        if len(response) - end < body_bytes:
            return More.MORE
        self.used = True
        self._strangers = 0
        head, body = kind.head(values), response[end:]
        return Answer(head + body if body_bytes <= JOINED_BODY_BYTES else (head, body), kind.ledger, body_bytes)


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


def learn_kind(
    response: bytes, sent: bytes, body: bytes, parts: Sequence[PassagePart], ledger: Ledger
) -> tuple[bytes, Kind] | None:
    """How responses like this one go to the client, and what they have in common.

    Args:
        response: of the upstream, whole.
        sent: the head that the client got.
        body: the same of the body.

    Returns:
        None if it cannot be told.
    """
    end = response.find(_EMPTY_LINE) + len(_EMPTY_LINE)
    if end < len(_EMPTY_LINE) or response[end:] != body:
        return None
    came, went = _CUT.split(response[:end]), _CUT.split(sent)
    names = [name.strip(b"\r\n:\t ").lower() for name in came[1::3]]
    values = came[2::3]
    if names != [name.strip(b"\r\n:\t ").lower() for name in went[1::3]] or values != went[2::3]:
        return None
    if names.count(b"content-length") != 1 or names.count(b"date") != 1:
        return None
    place = names.index(b"content-length")
    least = max((part.least_bytes for part in parts), default=0)
    most = min((part.most_bytes for part in parts), default=inf)
    # What became of no body tells nothing of what becomes of one: a decoded body of no bytes is the same as before.
    least, most = (max(least, 1), most) if body else (0, 0)
    if not least <= len(body) <= min(most, MOST_BYTES) or _length(values[place]) != len(body):
        return None
    pieces: list[bytes] = [went[0]]
    for name, following in zip(went[1::3], went[3::3], strict=True):
        pieces[-1] += name
        pieces += (b"", following)
    kind = Kind(pieces, place, ledger, least, most)
    return (_kind_key(came), kind) if kind.head(values) == sent else None
