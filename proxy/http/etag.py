"""Entity tags (RFC 9110 §8.8.3) and lists of them."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Final

from typing_extensions import override

from proxy.values import value

# etagc is any visible character but the quote, or obs-text; there are no escapes and a comma stands for itself. Bytes
# that are not UTF-8 arrive as surrogates, which \x80-\U0010ffff includes.
_TAG: Final = r'(W/)?"([!#-~\x80-\U0010ffff]*)"'
_ONE: Final = re.compile(_TAG)
_MEMBER: Final = re.compile(r"[ \t]*(?:" + _TAG + r")?[ \t]*(,|\Z)")


@value
class EntityTag:
    """An entity tag (RFC 9110 §8.8.3). `opaque` is without the quotes."""

    WRITTEN: ClassVar[Mapping[bool, Callable[[str], str]]] = {True: 'W/"{}"'.format, False: '"{}"'.format}
    """How a tag is written that is weak, or is not, by what is opaque of it."""

    opaque: str
    weak: bool = False

    @override
    def __str__(self) -> str:
        return self.WRITTEN[self.weak](self.opaque)

    def matches_strongly(self, other: "EntityTag") -> bool:
        """Strong comparison: the same octets (RFC 9110 §8.8.3.2)."""
        return not self.weak and not other.weak and self.opaque == other.opaque

    def matches_weakly(self, other: "EntityTag") -> bool:
        """Weak comparison: equivalent (RFC 9110 §8.8.3.2)."""
        return self.opaque == other.opaque


def parse_etag(value: str | None) -> EntityTag | None:
    """One entity tag; None for anything else. `W/` is case-sensitive."""
    match = _ONE.fullmatch(value.strip(" \t")) if value is not None else None
    return EntityTag(match[2], match[1] is not None) if match is not None else None


def parse_etags(lines: Iterable[str]) -> tuple[EntityTag, ...] | None:
    """The members of an `If-None-Match` or `If-Match` field.

    Returns:
        None for `*`; empty when there is no tag, or the list is malformed: then it matches nothing.
    """
    value = ",".join(lines).strip(" \t")
    if value == "*":
        return None
    tags: list[EntityTag] = []
    place = 0
    while place < len(value):
        match = _MEMBER.match(value, place)
        if match is None:
            return ()
        if match[2] is not None:
            tags.append(EntityTag(match[2], match[1] is not None))
        place = match.end()
    return tuple(tags)
