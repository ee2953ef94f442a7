"""Packed entries in numbers: each cast from what is known of one that it is like.

What one origin fills the cache with differs in times, validators, lengths and ids. To make the objects of such an entry
takes 12 µs, and to split it by its shape 6; to cast it takes 1 where the response's head was the last one's to the
letter, and 6 more where own values differ.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, final

from proxy.http.dates import parse_date
from proxy.http.etag import parse_etag
from proxy.policy.recurring import Times
from proxy.storage.base import NO_FORMS, Entry, PurgeId
from proxy.storage.packed import PackedEntry, shared
from proxy.storage.shape import MOMENTS, Own, Shape
from proxy.storage.shapes import SHAPES

_FLAGS_BYTES: Final = 1


def _length(text: str, now: float) -> int | None:
    del now
    return int(text) if text.isdecimal() else None


def _opaque(text: str, now: float) -> str | None:
    del now
    tag = parse_etag(text)
    return None if tag is None else tag.opaque


_READERS: Final[dict[str, Callable[[str, float], Any]]] = {
    "content-length": _length,
    "date": parse_date,
    "etag": _opaque,
    "last-modified": parse_date,
}
"""What the fields say that are written anew from it (`shape.ECHOES`); None: nothing. At a time, in wall seconds."""


class _Slot(NamedTuple):
    """Where in `Own` stands what a header field says.

    Attributes:
        read, write: what the field says, and how; None: it stands there as it is.
    """

    place: int
    read: Callable[[str, float], Any] | None
    write: Callable[[Any], str] | None


@final
class Mould:
    """Makes packed entries that are alike.

    Args:
        shape: theirs.
        own: of one of them.
        slots: of the header fields that are an entry's own, by their names in lower case.
    """

    __slots__ = ("_behind", "_flags", "_own", "_shape", "_slots")

    def __init__(self, shape: Shape, own: Own, slots: dict[str, _Slot]) -> None:
        self._shape = shape
        self._own = own
        self._slots = slots
        written = shape.write_own(own[1 : shape.purge_id_at], [*own[shape.purge_id_at :]])
        self._flags = written[:_FLAGS_BYTES]
        self._behind = written[MOMENTS.size :]

    @property
    def date(self) -> float:
        """See `Stored`."""
        date: float = self._own[self._slots["date"].place]
        return date

    def cast(self, times: Times, url: str | int, body: bytes) -> PackedEntry:
        """An entry with these times.

        Args:
            url: see `PackedEntry`.
            body: as long as that of the first.
        """
        shape = self._shape
        shape.uses += 1
        own = b"".join((self._flags, MOMENTS.pack(*times)[_FLAGS_BYTES:], self._behind))
        return PackedEntry(shared(shape), own, url, body, NO_FORMS)

    def changed(
        self, values: Iterable[tuple[str, str]], *, purge_id: PurgeId, body_bytes: int, now: float
    ) -> "Mould | None":
        """One for entries with other values in header fields, read at `now`, in wall seconds.

        Args:
            values: names and values.

        Returns:
            None: such entries are of another shape.
        """
        shape, slots = self._shape, self._slots
        own = [*self._own]
        own[shape.purge_id_at], own[shape.body_length_at] = purge_id, body_bytes
        for name, text in values:
            slot = slots.get(name.lower())
            if slot is None:
                if shape.constant(name) != text:
                    return None
            elif slot.read is None or slot.write is None:
                own[slot.place] = text
            else:
                value = slot.read(text, now)
                if value is None or slot.write(value) != text:
                    return None
                own[slot.place] = value
        return Mould(shape, tuple(own), slots) if own[shape.body_length_at] == body_bytes else None


def mould_of(entry: Entry) -> Mould | None:
    """What makes entries like this one; None: more would differ than `Times` and header fields, or there is no Date."""
    shape, written = SHAPES.split(entry)
    slots: dict[str, _Slot] = {}
    for name, place, write in shape.own_slots():
        folded = name.lower()
        if folded in slots:
            return None
        read = _READERS.get(folded)
        if read is None or write is not None:  # else this one's value says nothing, and another's may
            slots[folded] = _Slot(place, read, write)
    if not shape.is_stepped or "date" not in slots:
        return None
    return Mould(shape, shape.read_own(written), slots)
