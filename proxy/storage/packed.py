"""Entries that nobody uses, kept small: what is known about them is one `bytes`, not some ten objects.

What a sidecar keeps looks much alike: the same fields, the same names, most values the same. Deflated with entries
like it as the dictionary (RFC 1950 §2.2), the 640 bytes of JSON about an entry with ten fields are 60 to 110. Bodies
stay the objects that they are: whoever holds one may go on comparing it by identity.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, final

from proxy.storage.base import Entry
from proxy.storage.codec import read_document, read_metadata, write_metadata

Change: TypeAlias = Callable[[Entry], Entry]

_HEAD: Final = struct.Struct("<dB")  # discard_at, and the place of the dictionary
_WINDOW_BITS: Final = -12  # 4 KB, raw: no checksum, for nothing comes between
_MEMORY_LEVEL: Final = 4
_LEVEL: Final = 1  # the others pack no better, and take longer
_DICTIONARY_BYTES: Final = 4096 - 262  # all of it in the window, however little of it is used
_POOR: Final = 3  # what keeps more than one part in so many has little in common with the dictionary


@final
class PackedEntry:
    """An entry as `Packer.pack` makes it.

    Attributes:
        body, forms: as in the entry, the same objects.
        data: everything else.
        change: what is to be done to the entry when it is unpacked.
    """

    __slots__ = ("body", "change", "data", "forms")

    def __init__(self, data: bytes, body: bytes, forms: Mapping[str, bytes]) -> None:
        self.data = data
        self.body = body
        self.forms = forms
        self.change: Change | None = None

    @property
    def discard_at(self) -> float:
        """Wall seconds, see `Entry`."""
        moment: float = _HEAD.unpack_from(self.data)[0]
        return moment


class Packer:
    """Packs entries, and has what is needed to unpack those that it packed.

    A dictionary is made of the last entries that had little in common with the one before it. For the first such
    entry, the second, the fourth and so on: the number of dictionaries is the logarithm of a number of entries, and
    they need no end.
    """

    __slots__ = ("_compressor", "_dictionaries", "_poor")

    def __init__(self) -> None:
        self._dictionaries: list[bytes] = []
        self._compressor = _compressor(b"")
        self._poor = 0

    def pack(self, entry: Entry) -> PackedEntry:
        """`entry`, packed. It takes about 25 µs."""
        document = write_metadata(entry)
        deflated = self._deflate(document)
        if not self._dictionaries or len(deflated) * _POOR > len(document):
            self._poor += 1
            if self._poor.bit_count() == 1:
                known = self._dictionaries[-1] if self._dictionaries else b""
                self._dictionaries.append((known + document)[-_DICTIONARY_BYTES:])
                self._compressor = _compressor(self._dictionaries[-1])
                deflated = self._deflate(document)
        head = _HEAD.pack(entry.discard_at, len(self._dictionaries) - 1)
        return PackedEntry(head + deflated, entry.body, entry.forms)

    def unpack(self, packed: PackedEntry) -> Entry:
        """The entry, its bodies the same objects. It takes about 35 µs."""
        entry = read_metadata(self._inflate(packed), packed.body, packed.forms)
        return entry if packed.change is None else packed.change(entry)

    def address(self, packed: PackedEntry) -> tuple[str, tuple[str, ...]]:
        """URL and tags of the entry. It takes a third of the time of unpacking it."""
        document = read_document(self._inflate(packed))
        return document["url"], tuple(document.get("tags", ()))

    def _deflate(self, document: bytes) -> bytes:
        compressor = self._compressor.copy()  # 11 µs; to make one and have it read the dictionary takes 18
        return compressor.compress(document) + compressor.flush()

    def _inflate(self, packed: PackedEntry) -> bytes:
        _, place = _HEAD.unpack_from(packed.data)
        inflating = zlib.decompressobj(_WINDOW_BITS, self._dictionaries[place])
        return inflating.decompress(memoryview(packed.data)[_HEAD.size :])


def _compressor(dictionary: bytes) -> "zlib._Compress":
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, dictionary)
