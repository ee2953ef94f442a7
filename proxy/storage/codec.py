"""Records as bytes: versioned, checksummed, and never trusted.

Layout, little-endian: magic (3 bytes), format version (1), CRC-32 of all that follows (4), kind (1), and the lengths of
what comes then. For an entry that is its shape and its own bytes (`shape.py`), what a look takes of these, its URL, an
index of its derived forms (a JSON object of lengths by name; nothing if there are none), its body, the forms. For a
marker it is a JSON object.

What a look takes are lines: `purge_id`, and the values of the header fields that are the entry's own, as they are sent.
Nothing stands there where these are not lines. It is 100 bytes more, and a look that takes two thirds of the time.

A field with a default may be added without a new format version: an older reader meets a name that it does not know and
treats the record as a miss, a newer one fills in the default. docs/performance.md says what reading and writing cost.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple

from proxy.http.message import to_wire
from proxy.storage.base import NO_FORMS, PurgeId, Record, VaryMarker
from proxy.storage.documents import Document, UndecodableError, defaults_of, dump, hints_of, load_object
from proxy.storage.packed import PackedEntry, shape_of, url_of
from proxy.storage.shape import MOMENTS, Shape
from proxy.storage.shapes import SHAPES

FORMAT_VERSION: Final = 3

_VERSION: Final = b"ScR" + bytes([FORMAT_VERSION])
_FRAME: Final = struct.Struct("<4sI")
_FRAME_BYTES: Final = _FRAME.size
_HEAD: Final = struct.Struct("<BIIIIIQ")
_WHOLE_HEAD: Final = struct.Struct("<4sIBIIIIIQ")  # both
_START: Final = _WHOLE_HEAD.size
_ENTRY: Final = 1
_MARKER: Final = 2
_UNDECODABLE: Final = (UndecodableError, ValueError, OverflowError, RecursionError, struct.error)

_MARKERS: Final = Document(hints_of(VaryMarker), defaults_of(VaryMarker))
_marker_values: Final[Callable[[VaryMarker], tuple[Any, ...]]] = attrgetter(*hints_of(VaryMarker))


_new_tuple: Final = tuple.__new__  # what a NamedTuple's own name gives by a step through Python, in three times as long


class Look(NamedTuple):
    """What the bytes of an entry say, without the entry being made.

    Attributes:
        shape: what it has in common with others: status, header fields but for its own values.
        values: of the header fields that are its own, in the order of `shape.own_places`, as they are sent.
        fresh_until, request_time, response_time, initial_age, discard_at, purge_id, url, tags: see `Entry`, `Stored`.
    """

    shape: Shape
    values: list[bytes]
    fresh_until: float
    request_time: float
    response_time: float
    initial_age: float
    discard_at: float
    purge_id: int
    url: str
    tags: tuple[str, ...]
    body: bytes


def encode(record: Record | PackedEntry, primary: str = "") -> bytes:
    """`record` as bytes.

    Args:
        primary: the primary key, of an entry that is packed.
    """
    if isinstance(record, VaryMarker):
        return _framed(_MARKER, dump(_MARKERS.write(_marker_values(record))))
    if isinstance(record, PackedEntry):
        shape, own = shape_of(record), record.own
        url = url_of(record.url, primary)
        read = shape.read_own(own)
        glance = _glance(read[shape.purge_id_at], shape.own_values(read))
    else:
        shape, own = SHAPES.split(record)
        url = record.url
        values = tuple(record.stored.headers.values())
        glance = _glance(record.purge_id, [values[place] for place in shape.own_places])
    forms = record.forms
    index = dump({name: len(form) for name, form in forms.items()}) if forms else b""
    wire_url = url.encode("utf-8", "surrogatepass")
    return _framed(_ENTRY, shape.data, own, glance, wire_url, index, record.body, *forms.values())


def _glance(purge_id: PurgeId, values: list[str]) -> bytes:
    """What a look takes; empty if that cannot be told in lines."""
    try:
        glance = to_wire("\n".join((str(purge_id), *values)))
    except UnicodeEncodeError:
        return b""
    return b"" if glance.count(b"\n") != len(values) or b"\r" in glance else glance


def _framed(
    kind: int,
    first: bytes,
    own: bytes = b"",
    glance: bytes = b"",
    url: bytes = b"",
    index: bytes = b"",
    body: bytes = b"",
    *forms: bytes,
) -> bytes:
    head = _HEAD.pack(kind, len(first), len(own), len(glance), len(url), len(index), len(body))
    small = b"".join((head, first, own, glance, url, index))
    checksum = zlib.crc32(body, zlib.crc32(small))
    for form in forms:
        checksum = zlib.crc32(form, checksum)
    return b"".join((_FRAME.pack(_VERSION, checksum), small, body, *forms))


def decode(data: bytes | memoryview) -> Record | None:
    """The record that `encode` made `data` of; None for any other bytes. `data` may be reused afterwards."""
    view = memoryview(data)
    try:
        kind, first, own, glance, url, index, body = _open(view)
        if kind == _MARKER and first == len(view):
            return VaryMarker(**_MARKERS.read(load_object(bytes(view[_START:first]))))
        if kind != _ENTRY:
            return None
        small = bytes(view[:index])  # slices of bytes take a third of the time of slices of a memoryview
        shape = SHAPES.find(small[_START:first])
        return shape.fill(
            shape.read_own(small, first, own),
            str(small[glance:url], "utf-8", "surrogatepass"),
            bytes(view[index:body]),
            _read_forms(small[url:], view[body:]) if index > url else NO_FORMS,
        )
    except _UNDECODABLE:
        return None


def look(data: bytes | memoryview, start: int = 0) -> Look | None:
    """What the bytes of an entry say, which stand in `data` from `start` on; None for those of a marker, and for most
    that `decode` gives None for.
    """
    view = data if type(data) is memoryview else memoryview(data)
    try:
        kind, first, own, glance, url, index, body = _open(view, start)
        if kind != _ENTRY:
            return None
        small = view[start : start + url].tobytes()
        shape = SHAPES.find(small[_START:first])
        purge_id, *values = small[own:glance].split(b"\n")
        if len(values) != len(shape.own_places):
            return None
        discard_at, request_time, response_time, initial_age, fresh_until = MOMENTS.unpack_from(small, first)
        return _new_tuple(
            Look,
            (
                shape,
                values,
                fresh_until,
                request_time,
                response_time,
                initial_age,
                discard_at,
                int(purge_id),
                small[glance:].decode("utf-8", "surrogatepass"),
                shape.tags(shape.read_own(small, first, own)) if shape.tagged else (),
                view[start + index : start + body].tobytes(),
            ),
        )
    except _UNDECODABLE:
        return None


def _open(view: memoryview, start: int = 0) -> tuple[int, int, int, int, int, int, int]:
    """The kind of what stands in `view` from `start` on, and where, from there, the shape (or the marker), the own
    bytes, what a look takes, the URL, the index of forms and the body end.

    Raises:
        UndecodableError, struct.error: this is no record of this version.
    """
    version, checksum, kind, first, own, glance, url, index, body = _WHOLE_HEAD.unpack_from(view, start)
    first += _START
    own += first
    glance += own
    url += glance
    index += url
    body += index
    length = len(view) - start
    if (
        version != _VERSION
        # Only forms may come behind the body.
        or body > length
        or (body < length and index == url)
        or zlib.crc32(view[start + _FRAME_BYTES :]) != checksum
    ):
        raise UndecodableError
    return kind, first, own, glance, url, index, body


def _read_forms(index: bytes, data: memoryview) -> Mapping[str, bytes]:
    lengths = load_object(index)
    if not all(type(length) is int and length >= 0 for length in lengths.values()):
        raise UndecodableError
    if sum(lengths.values()) != len(data):
        raise UndecodableError
    forms = {}
    start = 0
    for name, length in lengths.items():
        forms[name] = bytes(data[start : start + length])
        start += length
    return forms
