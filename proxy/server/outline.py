"""A request's head but for what it is about: requests that are alike have the same outline."""

import re
from typing import Final, final

from proxy.server.heads import Tail

_METHOD: Final = b"GET "
_GET: Final = re.compile(_METHOD + rb"(/(?!/)[!$&'()*+,./0-9:;=?@A-Z_a-z~%-]*)")
"""A target that is nothing but what reaches the pipeline as it stands on the wire."""


@final
class Outline:
    """Of a GET.

    Args:
        front, rest: what its head is made of, without the lines that nobody heeds: method and target, and what is
            behind them.
        target: the same as in `front`.
        has_more: whether the request had such lines.
    """

    __slots__ = ("front", "has_more", "rest", "target")

    def __init__(self, front: bytes, target: str, rest: bytes, has_more: bool) -> None:
        self.front = front
        self.target = target
        self.rest = rest
        self.has_more = has_more

    @property
    def head(self) -> bytes:
        """The head without the lines that nobody heeds."""
        return self.front + self.rest


def outline_of(front: bytes, tail: Tail) -> Outline | None:
    """The outline of a request; None: it is for the pipeline alone.

    Args:
        front, tail: of its head, see `Scissors.cut`.
    """
    match = _GET.fullmatch(front) if tail.sound else None
    if match is None:
        return None
    return Outline(front, match[1].decode("ascii"), tail.heeded, tail.left_out > 0)
