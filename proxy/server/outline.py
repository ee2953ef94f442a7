"""A request's head but for what it is about: requests that are alike have the same outline."""

import re
from typing import Final, final

_METHOD: Final = b"GET "
_TARGET: Final = re.compile(rb"/(?!/)[!$&'()*+,./0-9:;=?@A-Z_a-z~%-]*")
"""What reaches the pipeline as it stands on the wire."""


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


def outline_of(front: bytes, rest: bytes, has_more: bool) -> Outline | None:
    """The outline of a request; None: it is for the pipeline alone.

    Args:
        front, rest: its head without the lines that nobody heeds, see `parted`.
        has_more: see `Outline`.
    """
    target = front[len(_METHOD) :]
    if not front.startswith(_METHOD) or not rest.startswith(b" ") or not _TARGET.fullmatch(target):
        return None
    return Outline(target.decode("ascii"), rest, has_more)
