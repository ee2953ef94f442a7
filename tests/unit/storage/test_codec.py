import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.dates import format_date
from proxy.http.etag import EntityTag
from proxy.http.message import Headers, from_wire, make_headers, to_wire
from proxy.http.ranges import ContentRange
from proxy.policy.model import Stored
from proxy.storage import codec
from proxy.storage.base import Entry, Record, VaryMarker
from proxy.storage.codec import Look, decode, encode, look
from proxy.storage.packed import pack
from proxy.storage.shape import Shape
from proxy.storage.shapes import Shapes
from tests.support.records import NOW, entries, entry, marker, records, same, stored


@given(records)
@settings(deadline=None)
def test_a_record_comes_out_as_it_went_in(record: Record) -> None:
    assert same(decode(encode(record)), record)


@given(entries)
@settings(deadline=None)
def test_a_packed_entry_is_written_as_the_entry_that_it_is(record: Entry) -> None:
    for primary in (f"GET {record.url}", "GET http://example.test/"):
        assert same(decode(encode(pack(record, primary), primary)), record)


@given(records)
@settings(deadline=None)
def test_a_record_is_read_from_a_buffer_that_is_reused_afterwards(record: Record) -> None:
    buffer = bytearray(encode(record))
    decoded = decode(memoryview(buffer))
    buffer[:] = b"\xff" * len(buffer)
    assert same(decoded, record)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_are_no_record(data: bytes) -> None:
    assert decode(data) is None


@given(records, st.data())
@settings(deadline=None)
def test_a_truncated_record_is_no_record(record: Record, data: st.DataObject) -> None:
    encoded = encode(record)
    assert decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))]) is None


@given(records, st.binary(min_size=1, max_size=20))
@settings(deadline=None)
def test_a_record_with_bytes_behind_it_is_no_record(record: Record, tail: bytes) -> None:
    assert decode(encode(record) + tail) is None


@given(records, st.data())
@settings(deadline=None)
def test_a_record_with_a_flipped_bit_is_no_record(record: Record, data: st.DataObject) -> None:
    encoded = bytearray(encode(record))
    position = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[position // 8] ^= 1 << position % 8
    assert decode(bytes(encoded)) is None


def frame(
    shape: object, own: bytes = b"", url: bytes = b"", index: bytes = b"", body: bytes = b"", forms: bytes = b"",
    glance: bytes = b"",
    *, kind: int = 1, lengths: tuple[int, ...] | None = None,
) -> bytes:  # fmt: skip
    """Bytes whose checksum is right, whatever they say."""
    first = shape if isinstance(shape, bytes) else json.dumps(shape).encode()
    parts = (first, own, glance, url, index, body)
    rest = codec._HEAD.pack(kind, *(lengths or map(len, parts))) + b"".join(parts) + forms
    return codec._FRAME.pack(codec._VERSION, zlib.crc32(rest)) + rest


def taken_apart(made: Entry) -> tuple[dict[str, Any], bytes]:
    """The shape of `made` as JSON, and its own bytes."""
    shape, own = Shapes().split(made)
    return json.loads(shape.data), own


def array_of(shape: object, own: bytes) -> tuple[bytes, list[Any]]:
    """The own bytes that are no JSON, and the array."""
    size = Shape(json.dumps(shape).encode())._numbers.size
    return own[:size], json.loads(own[size:])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def test_a_record_that_was_put_together_from_its_parts_is_read() -> None:
    shape, own = taken_apart(entry(forms={"br": b"xx"}))
    assert same(
        decode(frame(shape, own, b"http://example.test/a", b'{"br":2}', b"body", b"xx")), entry(forms={"br": b"xx"})
    )


@given(json_values, st.binary(max_size=90), st.binary(max_size=5), st.integers(0, 3))
@settings(deadline=None)
def test_a_sound_frame_around_something_else_is_no_record(shape: object, own: bytes, body: bytes, kind: int) -> None:
    data = frame(shape, own, b"", b"", body, kind=kind)
    assert decode(data) is None
    assert look(data) is None


@given(st.binary(max_size=120))
@settings(deadline=None)
def test_a_known_shape_with_other_own_bytes_is_no_record_or_a_whole_one(own: bytes) -> None:
    shape, real = taken_apart(entry())
    for data in (own, real[: len(own)], real[:-10] + own):
        found = decode(frame(shape, data, b"", b"", b"body"))
        assert found is None or same(decode(encode(found)), found)


@given(st.data())
@settings(deadline=None)
def test_no_value_of_a_wrong_type_gets_through(data: st.DataObject) -> None:
    made = entry(tags=("t",))
    shape, own = taken_apart(replace(made, stored=replace(made.stored, content_range=(0, 3, 10), vary=("accept",))))
    numbers, array = array_of(shape, own)
    where = data.draw(st.sampled_from([shape, shape["constants"], array, shape["fields"], shape["fields"][0]]))
    place = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
    where[place] = data.draw(json_values)
    decoded = decode(frame(shape, numbers + json.dumps(array).encode(), b"http://example.test/a", b"", b"body"))
    if decoded is not None:  # the value drawn happened to be possible
        assert isinstance(decoded, Entry)
        assert decode(encode(decoded)) is not None


def test_deeply_nested_json_is_no_record() -> None:
    shape, own = taken_apart(entry())
    numbers, _ = array_of(shape, own)
    assert decode(frame(b"[" * 100_000, own)) is None
    assert decode(frame(b"[" * 100_000, kind=2)) is None
    assert decode(frame(shape, numbers + b"[" * 100_000)) is None
    assert decode(frame(shape, b"\x01" + numbers[1:] + b"[" * 100_000)) is None
    assert decode(frame(shape, own, b"", b"[" * 100_000)) is None


def test_flags_of_a_later_version_are_no_record() -> None:
    shape, own = taken_apart(entry())
    assert decode(frame(shape, own, b"", b"", b"body")) is not None
    assert decode(frame(shape, b"\x02" + own[1:], b"", b"", b"body")) is None


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_record_of_another_format_version_is_no_record(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_VERSION", codec._VERSION[:-1] + bytes([version]))
    encoded = encode(entry())
    monkeypatch.undo()
    assert decode(encoded) is None
    assert look(encoded) is None


@pytest.mark.parametrize("path", ["invented", "constants"])
def test_a_record_with_a_field_of_a_later_version_is_no_record(path: str) -> None:
    shape, own = taken_apart(entry())
    (shape["constants"] if path == "constants" else shape)["invented"] = 1
    assert decode(frame(shape, own, b"", b"", b"body")) is None


def test_a_field_that_an_older_version_did_not_write_has_its_default() -> None:
    made = entry()
    shape, own = taken_apart(replace(made, stored=replace(made.stored, immutable=True)))
    assert shape["constants"].pop("stored.immutable") is True
    decoded = decode(frame(shape, own, b"", b"", b"body"))
    assert isinstance(decoded, Entry)
    assert decoded.stored.immutable is False


@pytest.mark.parametrize("name", ["fields", "steps", "absent", "weak", "tagged", "ranged", "constants"])
def test_a_shape_without_one_of_its_members_is_no_record(name: str) -> None:
    shape, own = taken_apart(entry())
    del shape[name]
    assert decode(frame(shape, own, b"", b"", b"body")) is None


@pytest.mark.parametrize("name", ["stored.method", "stored.status"])
def test_a_record_without_a_field_that_has_no_default_is_no_record(name: str) -> None:
    shape, own = taken_apart(entry())
    del shape["constants"][name]
    assert decode(frame(shape, own, b"", b"", b"body")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"steps": [1.0]},
        {"absent": [0, 1, 2]},
        {"absent": [-1]},
        {"weak": None},  # the ETag field is to be written anew from it
        {"fields": [["Date", True]], "absent": [0, 1]},
        {"fields": [["Server", True]]},
        {"fields": [["Server"]]},
        {"fields": [[1, "x"]]},
        {"fields": [["Server", 1]]},
        {"fields": [["Server", False]]},
        {"fields": ["ab"]},
    ],
)
def test_a_shape_that_contradicts_itself_is_no_record(change: dict[str, object]) -> None:
    shape, own = taken_apart(entry())
    assert decode(frame({**shape, **change}, own, b"", b"", b"body")) is None


@pytest.mark.parametrize("moment", [float("nan"), float("inf"), 1e300, -1e300])
def test_a_field_that_is_to_be_written_anew_from_a_time_that_is_no_date_is_no_record(moment: float) -> None:
    made = entry()
    headers = make_headers([("Date", format_date(NOW))])
    shape, own = taken_apart(replace(made, stored=replace(made.stored, headers=headers, date=NOW)))
    assert shape["fields"] == [["Date", True]]
    numbers = own.replace(struct.pack("<d", NOW), struct.pack("<d", moment))
    assert decode(frame(shape, own, b"", b"", b"body")) is not None
    assert decode(frame(shape, numbers, b"", b"", b"body")) is None


def test_lengths_that_do_not_add_up_are_no_record() -> None:
    shape, own = taken_apart(entry())
    sizes = len(json.dumps(shape)), len(own), 0, 0

    def found(index: bytes, length: int, bodies: bytes) -> Record | None:
        return decode(frame(shape, own, b"", index, bodies, lengths=(*sizes, len(index), length)))

    assert found(b'{"br": 2}', 4, b"bodyxx") is not None
    assert found(b'{"br": 2}', 4, b"bodyxxx") is None
    assert found(b'{"br": 2}', 5, b"bodyxx") is None
    assert found(b'{"br": 3, "gzip": -1}', 4, b"bodyxx") is None
    assert found(b'{"br": 2.0}', 4, b"bodyxx") is None
    assert found(b"[2]", 4, b"bodyxx") is None
    assert found(b"", 4, b"body") is not None
    assert found(b"", 4, b"bodyxx") is None
    assert found(b"", 7, b"bodyxx") is None
    assert found(b"", 2**63, b"body") is None


def test_a_marker_is_never_read_as_an_entry() -> None:
    made = marker()
    document = {"names": ["accept"], "generation": 1, "discard_at": made.discard_at, "url": made.url}
    assert decode(frame(document, kind=2)) == made
    assert look(frame(document, kind=2)) is None
    assert decode(frame(document, kind=1)) is None
    assert decode(frame(document, b"x", kind=2)) is None
    assert decode(frame({**document, "names": [1]}, kind=2)) is None
    assert decode(frame({"names": ["accept"]}, kind=2)) is None


numbers = st.floats() | st.sampled_from([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 5e-324, 2.0**53 + 2])


@given(numbers, st.lists(numbers, min_size=8, max_size=8))
@settings(deadline=None)
def test_every_number_comes_out_to_the_bit(discard_at: float, drawn: list[float]) -> None:
    names = [field.name for field in fields(Stored) if field.type in {float, float | None}]
    assert len(names) == len(drawn)
    changes: dict[str, Any] = dict(zip(names, drawn, strict=True))
    made = replace(entry(discard_at=discard_at), stored=replace(stored(), **changes))
    decoded = decode(encode(made))
    assert isinstance(decoded, Entry)
    assert struct.pack("<d", decoded.discard_at) == struct.pack("<d", discard_at)
    assert struct.pack("<8d", *(getattr(decoded.stored, name) for name in names)) == struct.pack("<8d", *drawn)


def test_no_field_is_forgotten() -> None:
    """Every field with a value that no other entry here has, a later version's too: see `other_value`."""
    made = entry(forms={"br": b"x"})
    for field in fields(Stored):
        other = replace(made.stored, **{field.name: other_value(getattr(made.stored, field.name), field.type)})
        assert same(decode(encode(replace(made, stored=other))), replace(made, stored=other)), field.name
    for field in fields(Entry):
        if field.name != "stored":
            changed = replace(made, **{field.name: other_value(getattr(made, field.name), field.type)})
            assert not same(changed, made), field.name
            assert same(decode(encode(changed)), changed), field.name


def other_value(value: object, annotation: object) -> Any:
    """Another value of the same type."""
    known: dict[object, Callable[[Any], object]] = {
        bool: lambda old: not old, int: lambda old: old + 1, float: lambda old: old + 1, str: lambda old: old + "x",
        bytes: lambda old: old + b"x", float | None: lambda old: 1.5, EntityTag | None: lambda old: EntityTag("y"),
        tuple[str, ...]: lambda old: (*old, "x"), ContentRange | None: lambda old: (0, 1, None),
        Headers: lambda old: make_headers([("X", "y")]), Mapping[str, bytes]: lambda old: {**old, "x": b"y"},
    }  # fmt: skip
    return known[annotation](value)


def lines_of(seen: Look) -> list[tuple[str, str | None]]:
    """The header fields of what is seen."""
    values = list(seen.shape.values)
    for place, value in zip(seen.shape.own_places, seen.values, strict=True):
        assert values[place] is None
        values[place] = from_wire(value)
    return list(zip(seen.shape.names, values, strict=True))


def fits_a_line(value: str) -> bool:
    """Whether a field can be sent with this value."""
    try:
        return not set(to_wire(value)) & set(b"\r\n")
    except UnicodeEncodeError:
        return False


@given(entries)
@settings(deadline=None)
def test_a_look_says_what_the_whole_entry_says(made: Entry) -> None:
    data = encode(made)
    seen = look(memoryview(data))
    if seen is None:
        assert any(not fits_a_line(value) for value in made.stored.headers.values())
        return
    assert lines_of(seen) == list(made.stored.headers.items())
    assert [seen.shape.names[place] for place in seen.shape.own_places] == list(seen.shape.own_names)
    assert (seen.fresh_until, seen.response_time) == (made.stored.fresh_until, made.stored.response_time)
    assert (seen.discard_at, seen.purge_id, seen.url, seen.tags) == (
        made.discard_at, made.purge_id, made.url, made.tags
    )  # fmt: skip
    assert seen.body == made.body
    behind = look(b"behind this" + data, len(b"behind this"))
    assert behind is not None
    assert behind[1:] == seen[1:]
    again = look(encode(pack(made, "GET http://example.test/"), "GET http://example.test/"))
    assert again is not None
    assert lines_of(again) == lines_of(seen)
    assert again[2:] == seen[2:]


def test_what_is_no_line_is_not_to_be_seen() -> None:
    made = entry()
    for value in ("a\nb", "a\rb", "\ud800"):
        odd = replace(made, stored=replace(made.stored, headers=make_headers([("ETag", value)])))
        assert look(encode(odd)) is None
        assert same(decode(encode(odd)), odd)


@pytest.mark.parametrize("glance", [b"", b"0", b'x\n"v1"', b'0\n"v1"\nmore', b'\n"v1"'])
def test_what_a_look_takes_may_be_anything(glance: bytes) -> None:
    shape, own = taken_apart(entry())
    assert look(frame(shape, own, b"", b"", b"body", glance=glance)) is None
    assert look(frame(shape, own, b"", b"", b"body", glance=b'0\n"v1"')) is not None


@given(st.binary(max_size=300), records, st.data())
@settings(deadline=None)
def test_there_is_nothing_to_see_in_what_is_no_record(noise: bytes, record: Record, data: st.DataObject) -> None:
    broken = bytearray(encode(record))
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= 0x10
    assert look(noise) is None
    assert look(bytes(broken)) is None


def test_infinite_times_survive() -> None:
    record = VaryMarker((), 1, float("inf"))
    assert decode(encode(record)) == record
    partial = replace(entry(), stored=replace(stored(), content_range=(0, 4, None)))
    assert same(decode(encode(partial)), partial)


def test_names_of_header_fields_are_shared_between_decoded_records() -> None:
    encoded = encode(entry())
    one, other = decode(encoded), decode(encoded)
    assert isinstance(one, Entry)
    assert isinstance(other, Entry)
    assert next(iter(one.stored.headers.keys())) is next(iter(other.stored.headers.keys()))


def test_short_values_of_header_fields_are_shared_between_decoded_records() -> None:
    encoded = encode(entry())
    one, other = decode(encoded), decode(encoded)
    assert isinstance(one, Entry)
    assert isinstance(other, Entry)
    assert one.stored.headers["Content-Type"] is other.stored.headers["Content-Type"]
