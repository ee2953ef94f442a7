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
        target, rest: what its head is made of, behind the method, without the lines that nobody heeds.
        has_more: whether the request had such lines.
    """

    __slots__ = ("has_more", "rest", "target")

    def __init__(self, target: str, rest: bytes, has_more: bool) -> None:
        self.target = target
        self.rest = rest
        self.has_more = has_more

    @property
    def head(self) -> bytes:
        """The head without the lines that nobody heeds."""
        return _METHOD + self.target.encode("ascii") + self.rest


def outline_of(front: bytes, tail: Tail) -> Outline | None:
    """The outline of a request; None: it is for the pipeline alone.

    Args:
        front, tail: of its head, see `Scissors.cut`.
    """
    match = _GET.fullmatch(front) if tail.sound else None
    return Outline(match[1].decode("ascii"), tail.heeded, tail.left_out > 0) if match is not None else None
