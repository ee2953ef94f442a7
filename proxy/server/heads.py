"""A request's head without parsing it: whose it is, whole field lines, and which of them may be left out."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import ClassVar, Final, TypeAlias, final

from proxy.http.message import from_wire

ReadField: TypeAlias = Callable[[bytes], str | None]

MAX_FIELDS_LEFT_OUT: Final = 16
UNLIKE_TAILS: Final = 32

_ANY_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*"
_CONNECTION: Final = re.compile(rb"\r\n(?i:connection):(?![\t ]*(?i:keep-alive)[\t ]*\r\n)")
_FORWARDED: Final = re.compile(rb"\r\n(?i:x-forwarded-(host|proto)):([^\r]*)")
_VERSION_BYTES: Final = len(b" HTTP/1.1")
_ONCE_ONLY: Final = b"\r\nuser-agent:"  # the one field of PASSED_OVER that aiohttp's parser refuses to see twice


class _Peer:
    """Whose a connection is, and the head that came over it last.

    Args:
        peer: address; empty for a Unix socket.

    Attributes:
        exact_misses: for the fast lane to count.
    """

    __slots__ = ("began", "exact_misses", "head", "peer")

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.head = b""
        self.began = 0.0
        self.exact_misses = 0

    def field(self, name: bytes) -> str | None:
        """See `Arrival.field`; several lines are joined by a comma."""
        lines = _field_pattern(name).findall(self.head)
        return from_wire(b", ".join(lines)) if lines else None


class DirectCaller(_Peer):
    """A peer of whom nothing is believed: it is the client.

    Args:
        peer: address; empty for a Unix socket.
        make_id: a new request id.
    """

    __slots__ = ("client", "make_id")  # asked for in each line of the log: in this way, at the cost of an attribute

    trusted: ClassVar = False

    def __init__(self, peer: str, make_id: Callable[[], str]) -> None:
        super().__init__(peer)
        self.client = peer
        self.make_id = make_id


class TrustedCaller(_Peer):
    """A proxy whose word is taken.

    Args:
        peer: address; empty for a Unix socket.
        find_client: the client's address by the peer's and a reader of the head's fields.
        choose_id: the request id by the value of `X-Request-ID`, which may be empty.
    """

    __slots__ = ("_choose_id", "_find_client")

    trusted: ClassVar = True

    def __init__(
        self, peer: str, find_client: Callable[[str, ReadField], str], choose_id: Callable[[str], str]
    ) -> None:
        super().__init__(peer)
        self._find_client = find_client
        self._choose_id = choose_id

    @property
    def client(self) -> str:
        """See `Arrival.client`."""
        return self._find_client(self.peer, self.field)

    def make_id(self) -> str:
        """See `Arrival.make_id`; of several lines the first counts."""
        line = _field_pattern(b"x-request-id").search(self.head)
        return self._choose_id(from_wire(line[1]) if line is not None else "")


Caller: TypeAlias = DirectCaller | TrustedCaller
"""One connection's peer: an `Arrival`."""


@lru_cache(maxsize=256)
def _field_pattern(name: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"\r\n(?i:" + re.escape(name) + rb"):[\t ]*([^\r]*?)[\t ]*(?=\r\n)")


def stands_alone(head: bytes) -> bool:
    """Whether what `head` asks for can be told without the lines of `PASSED_OVER`, and its fields are all there is.

    A trusted proxy's lists of hosts and schemes go with its list of addresses: by that the client's are found. And a
    field named in `Connection` is no field of the request as plugins see it.
    """
    listed: set[bytes] = set()
    for match in _FORWARDED.finditer(head):
        name, value = match[1].lower(), match[2]
        if name in listed or b"," in value:
            return False
        listed.add(name)
    return _CONNECTION.search(head) is None


def _is_sound(lines: bytes, left_out: int) -> bool:
    """Whether the parser accepts together those of `lines` that nobody heeds, so many of them."""
    return left_out <= 1 or (left_out <= MAX_FIELDS_LEFT_OUT and lines.lower().count(_ONCE_ONLY) <= 1)


@final
class Tail:
    """A head from its version on.

    Args:
        whole: as it came.
        heeded: without the lines that nobody heeds.
        left_out: how many these are.

    Attributes:
        sound: the parser accepts the lines that nobody heeds together, and it is from the version on indeed.
    """

    __slots__ = ("heeded", "left_out", "sound", "whole")

    def __init__(self, whole: bytes, heeded: bytes, left_out: int) -> None:
        self.whole = whole
        self.heeded = heeded
        self.left_out = left_out
        self.sound = _is_sound(whole, left_out) and whole.startswith(b" ")


@final
class Scissors:
    """Cuts the lines that nobody heeds out of heads.

    What stands behind the target is mostly the same, to the letter, in a client's next request. To see that takes a
    tenth of cutting it again. Where it is another each time, as with ids of requests, it is in vain, and costs as much
    again as the cutting: after `UNLIKE_TAILS` in a row it is not tried for a while.

    Args:
        names: of the fields that nobody heeds, in lower case.
    """

    __slots__ = ("_head", "_heeded", "_lines", "_parts", "_tail", "_unlike")

    def __init__(self, names: Sequence[str]) -> None:
        self._lines = lines_of(names) if names else None
        self._head = b""
        self._tail = Tail(b"", b"", 0)
        self._parts = b"", self._tail  # of that head
        self._heeded: tuple[bytes, bytes, int] = b"", b"", 0  # a head that was cut whole, what was left, and how many
        self._unlike = 0  # how many tails in a row were not like the one before

    def heeded(self, head: bytes) -> bytes | None:
        """What is left of `head`; None if the parser would not accept together what is not."""
        if self._unlike < UNLIKE_TAILS:
            front, tail = self.cut(head)
            if not tail.left_out:
                return head
            return front + tail.heeded if tail.sound else None
        self._unlike = (self._unlike + 1) % (UNLIKE_TAILS * UNLIKE_TAILS)
        left, left_out = self._lines.subn(b"", head) if self._lines is not None else (head, 0)
        self._heeded = head, left, left_out
        return left if _is_sound(head, left_out) else None

    def cut(self, head: bytes) -> tuple[bytes, Tail]:
        """`head` up to its target, and from the version on: there stand all line ends."""
        if head is self._head:
            return self._parts
        end = head.find(b"\r\n") - _VERSION_BYTES
        if end < 0:  # noqa: PLR1730  # each request is cut; by `max` it takes 0.2 µs
            end = 0
        whole = head[end:]
        if whole == self._tail.whole:
            self._unlike = 0
        elif head is self._heeded[0]:
            _, left, left_out = self._heeded
            self._tail = Tail(whole, left[end:], left_out)
        else:
            heeded, left_out = self._lines.subn(b"", whole) if self._lines is not None else (whole, 0)
            self._tail = Tail(whole, heeded, left_out)
            self._unlike += self._unlike < UNLIKE_TAILS
        self._head = head
        parts = self._parts = head[:end], self._tail
        return parts

    def cut_out(self, head: bytes) -> list[bytes]:
        """The lines of `head` that nobody heeds, each with the line end before it."""
        return self._lines.findall(head) if self._lines is not None else []


def lines_of(names: Sequence[str]) -> re.Pattern[bytes]:
    """Matches a whole line of any of these fields, as every parser accepts it: no white space before the colon, no
    control character in the value, and no line after it that goes on with it.
    """
    return re.compile(rb"\r\n" + _any_of(names) + rb":" + _ANY_VALUE + rb"(?=\r\n[^\t ])")


def values_of(names: Sequence[str]) -> re.Pattern[bytes]:
    """Splits a head at the values of these fields, each behind a group with the line's beginning."""
    return re.compile(rb"(\r\n" + _any_of(names) + rb":[\t ]*)(" + _ANY_VALUE + rb")(?=\r\n[^\t ])")


def _any_of(names: Sequence[str]) -> bytes:
    """Matches any of `names`, in any case. As a tree by first letters it takes 2.7 µs for a head of ten lines; as a
    list of alternatives that ignores case, 5.2.
    """
    tree: dict[str, list[str]] = {}
    for name in names:
        tree.setdefault(name[:1], []).append(name[1:])
    branches = [_letter(first) + (_any_of(rest) if any(rest) else b"") for first, rest in tree.items() if first]
    pattern = b"|".join(branches)
    if "" in tree:
        return b"(?:" + pattern + b")?" if pattern else b""
    return pattern if len(branches) == 1 else b"(?:" + pattern + b")"


def _letter(letter: str) -> bytes:
    lower, upper = letter.lower().encode(), letter.upper().encode()
    return re.escape(lower) if lower == upper else b"[" + lower + upper + b"]"
