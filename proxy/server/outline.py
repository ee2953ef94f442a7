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
        head: without the lines that nobody heeds.
        target, rest: what `head` is made of, behind the method.
        has_more: whether the request had lines that nobody heeds.
    """

    __slots__ = ("has_more", "head", "rest", "target")

    def __init__(self, head: bytes, target: str, rest: bytes, *, has_more: bool) -> None:
        self.head = head
        self.target = target
        self.rest = rest
        self.has_more = has_more


def outline_of(head: bytes, *, has_more: bool) -> Outline | None:
    """The outline of a request; None: it is for the pipeline alone.

    Args:
        head: without the lines that nobody heeds.
    """
    end = head.find(b" ", len(_METHOD))
    target = head[len(_METHOD) : end]
    if not head.startswith(_METHOD) or not _TARGET.fullmatch(target):
        return None
    return Outline(head, target.decode("ascii"), head[end:], has_more=has_more)
