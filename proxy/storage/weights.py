"""What records in memory weigh: bytes, as near as can be known without asking for each."""

from typing import Final

from proxy.storage.base import CacheKey, Entry, Record, VaryMarker
from proxy.storage.packed import PackedEntry

# What a record costs beside its texts and bodies, fitted to the growth of a process: 100,000 entries of 1 KB with ten
# header fields take 266 MB in use and 162 MB packed; these figures make that 275 and 167.
ENTRY_OVERHEAD: Final = 320  # its place in the queue and in the dicts, and what the allocator rounds up
UNPACKED_OVERHEAD: Final = 800  # the objects of an entry
PACKED_OVERHEAD: Final = 120
MARKER_OVERHEAD: Final = 600
HEADER_OVERHEAD: Final = 30  # a place in a multidict, and the object of a value that is not shared
TEXT_OVERHEAD: Final = 50  # an object of type str or bytes
TAG_OVERHEAD: Final = 200  # a place in the tag's set
_PACKED_ALWAYS: Final = TEXT_OVERHEAD + ENTRY_OVERHEAD + PACKED_OVERHEAD


def weigh(key: CacheKey, record: Record) -> int:
    """The bytes of memory that keeping `record` under `key` takes, as near as can be known without asking for each."""
    size = len(key.primary) + len(key.variant) + TEXT_OVERHEAD
    if isinstance(record, VaryMarker):
        return size + 2 * len(record.url) + MARKER_OVERHEAD + sum(len(name) + TEXT_OVERHEAD for name in record.names)
    size += ENTRY_OVERHEAD + len(record.body) + TAG_OVERHEAD * len(record.tags) + unpacked_bytes(record)
    if record.forms:
        size += 200 + sum(map(_form_bytes, record.forms.values()))
    return size


def weigh_packed(key: CacheKey, packed: PackedEntry, tags: tuple[str, ...]) -> int:
    """The same of an entry without derived forms that is packed."""
    primary, variant = key
    size = len(primary) + len(variant) + len(packed.body) + packed.extra_bytes + _PACKED_ALWAYS
    return size + TAG_OVERHEAD * len(tags) if tags else size


def unpacked_bytes(entry: Entry) -> int:
    """What is spared when it is packed."""
    values = entry.stored.headers.values()
    size = UNPACKED_OVERHEAD + len(entry.url) + HEADER_OVERHEAD * len(values) + sum(map(len, values))
    return size + sum(map(len, entry.tags)) if entry.tags else size


def _form_bytes(form: bytes) -> int:
    return len(form) + 2 * TEXT_OVERHEAD
