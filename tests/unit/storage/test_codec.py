import json
import zlib
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.storage import codec
from proxy.storage.base import Entry, Record, VaryMarker
from proxy.storage.codec import decode, encode
from tests.support.records import entry, marker, records, same, stored


@given(records)
@settings(deadline=None)
def test_a_record_comes_out_as_it_went_in(record: Record) -> None:
    assert same(decode(encode(record)), record)


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


def frame(document: object, bodies: bytes = b"", *, kind: int = 1, flags: int = 1, meta: bytes | None = None) -> bytes:
    """Bytes whose checksum is right, whatever they say."""
    meta = json.dumps(document).encode() if meta is None else meta
    rest = codec._HEAD.pack(kind, flags, 0, len(meta)) + meta + bodies
    return codec._FRAME.pack(codec._MAGIC, codec.FORMAT_VERSION, zlib.crc32(rest)) + rest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(json_values, st.binary(max_size=5), st.integers(0, 3), st.integers(0, 3))
@settings(deadline=None)
def test_a_sound_frame_around_something_else_is_no_record(
    document: object, bodies: bytes, kind: int, flags: int
) -> None:
    assert decode(frame(document, bodies, kind=kind, flags=flags)) is None


@given(entries_and_changes := st.data())
@settings(deadline=None)
def test_no_value_of_a_wrong_type_gets_through(data: st.DataObject) -> None:
    document = codec._document(entry(forms={"br": b"x"}, tags=("t",)))
    part = data.draw(st.sampled_from([document, document["stored"]]))
    name = data.draw(st.sampled_from(sorted(part)))
    part[name] = data.draw(json_values)
    decoded = decode(frame(document, b"bodyx"))
    if decoded is not None:  # the value drawn happened to be possible
        assert isinstance(decoded, Entry)
        assert decode(encode(decoded)) is not None


def test_deeply_nested_metadata_is_no_record() -> None:
    assert decode(frame(None, meta=b"[" * 100_000)) is None
    assert decode(frame(None, meta=b"[" * 100_000, flags=0)) is None


def test_a_record_of_another_format_version_is_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encode(entry())
    monkeypatch.setattr(codec, "FORMAT_VERSION", codec.FORMAT_VERSION + 1)
    assert decode(encoded) is None


def test_a_record_with_a_field_of_a_later_version_is_no_record() -> None:
    document = codec._document(entry())
    assert decode(frame(document, b"body")) is not None
    document["stored"]["invented"] = 1
    assert decode(frame(document, b"body")) is None


def test_a_field_that_an_older_version_did_not_write_has_its_default() -> None:
    document = codec._document(entry())
    del document["stored"]["etag"]
    decoded = decode(frame(document, b"body"))
    assert isinstance(decoded, Entry)
    assert decoded.stored.etag is None


@pytest.mark.parametrize("where", ["stored", "url", "body"])
def test_a_record_without_a_field_that_has_no_default_is_no_record(where: str) -> None:
    document = codec._document(entry())
    del document[where]
    assert decode(frame(document, b"body")) is None


def test_a_part_without_a_field_that_has_no_default_is_no_record() -> None:
    document = codec._document(entry())
    del document["stored"]["fresh_until"]
    assert decode(frame(document, b"body")) is None


def test_lengths_that_do_not_add_up_are_no_record() -> None:
    document = codec._document(entry(forms={"br": b"xx"}))
    assert decode(frame(document, b"bodyxx")) is not None
    assert decode(frame(document, b"bodyxxx")) is None
    assert decode(frame({**document, "body": -1, "forms": {"br": 7}}, b"bodyxx")) is None


def test_a_marker_is_never_read_as_an_entry() -> None:
    assert decode(frame(codec._document(marker()), kind=2)) == marker()
    assert decode(frame(codec._document(marker()), kind=1)) is None
    assert decode(frame(codec._document(marker()), b"x", kind=2)) is None


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


def test_a_type_that_the_codec_does_not_know_is_refused_when_it_is_built() -> None:
    with pytest.raises(TypeError, match="cannot store"):
        codec._reader(complex)


def test_short_values_of_header_fields_are_shared_between_decoded_records() -> None:
    encoded = encode(entry())
    one, other = decode(encoded), decode(encoded)
    assert isinstance(one, Entry)
    assert isinstance(other, Entry)
    assert one.stored.headers["Content-Type"] is other.stored.headers["Content-Type"]


def test_a_dataclass_that_does_more_than_keep_its_fields_is_refused_when_it_is_built() -> None:
    @dataclass(frozen=True, slots=True)
    class Counting:
        number: int

        def __post_init__(self) -> None:
            """Would not be run."""

    with pytest.raises(TypeError, match="would not run"):
        codec._Shape(Counting)
