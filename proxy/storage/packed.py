"""Entries that nobody uses, kept small: what is known about them is a shape that they share and one `bytes`, not some
ten objects.

Bodies stay the objects that they are: whoever holds one may go on comparing it by identity. The URL is mostly what a
key ends with (`policy/keys.py`), and is not kept a second time then.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, final

from proxy.storage.base import Entry
from proxy.storage.shape import Shape
from proxy.storage.shapes import SHAPES

Change: TypeAlias = Callable[[Entry], Entry]

_DISCARD_AT: Final = struct.Struct("<xd")  # of an entry's own bytes
_SHARED_BY: Final = 8
"""A shape, some 3 KB of objects, is kept for an entry if it is one of so many at least; others have its bytes alone."""


@final
class PackedEntry:
    """An entry as `pack` makes it.

    Attributes:
        body, forms: as in the entry, the same objects.
        shape: what it shares with others, or the bytes of that.
        own: everything else but the URL.
        url: the URL, or from where on the primary key is the URL.
        change: what is to be done to the entry when it is unpacked.
    """

    __slots__ = ("body", "change", "forms", "own", "shape", "url")

    def __init__(
        self, shape: Shape | bytes, own: bytes, url: str | int, body: bytes, forms: Mapping[str, bytes]
    ) -> None:
        self.shape = shape
        self.own = own
        self.url = url
        self.body = body
        self.forms = forms
        self.change: Change | None = None

    @property
    def discard_at(self) -> float:
        """Wall seconds, see `Entry`."""
        moment: float = _DISCARD_AT.unpack_from(self.own)[0]
        return moment

    @property
    def extra_bytes(self) -> int:
        """What it takes beside its bodies and the objects that each packed entry has."""
        size, shape, url = len(self.own), self.shape, self.url
        if not isinstance(shape, Shape):
            size += len(shape)
        return size if isinstance(url, int) else size + len(url)


def pack(entry: Entry, primary: str) -> PackedEntry:
    """`entry`, packed.

    Args:
        primary: its primary key.
    """
    shape, own = SHAPES.split(entry)
    return PackedEntry(shared(shape), own, url_within(primary, entry.url), entry.body, entry.forms)


def shared(shape: Shape) -> Shape | bytes:
    """What `PackedEntry.shape` is to be."""
    return shape if shape.uses >= _SHARED_BY else shape.data


def url_within(primary: str, url: str) -> str | int:
    """How `PackedEntry.url` says `url`."""
    return len(primary) - len(url) if primary.endswith(url) else url


def url_of(where: str | int, primary: str) -> str:
    """The other way round."""
    return primary[where:] if isinstance(where, int) else where


def unpack(packed: PackedEntry, primary: str) -> Entry:
    """The entry, its bodies the same objects.

    Args:
        primary: what `pack` was told.
    """
    shape = shape_of(packed)
    entry = shape.fill(shape.read_own(packed.own), url_of(packed.url, primary), packed.body, packed.forms)
    return entry if packed.change is None else packed.change(entry)


def address(packed: PackedEntry) -> tuple[str | int, tuple[str, ...]]:
    """URL, as `packed` has it, and tags of the entry, for less than unpacking it."""
    shape = packed.shape
    if isinstance(shape, bytes):
        shape = SHAPES.find(shape)
    return packed.url, shape.tags(shape.read_own(packed.own)) if shape.tagged else ()


def shape_of(packed: PackedEntry) -> Shape:
    """What it shares with others."""
    shape = packed.shape
    return SHAPES.find(shape) if isinstance(shape, bytes) else shape
