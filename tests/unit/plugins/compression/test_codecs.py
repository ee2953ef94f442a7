"""Each coding, whole and in pieces: what goes in comes out, and what is broken is found."""

import gzip
import random
from collections.abc import Iterable
from itertools import pairwise

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.compression.codecs import CODINGS, Coding, CodingError, Decoder, compress, decoder, encoder

codings = st.sampled_from(CODINGS)
every_coding = pytest.mark.parametrize("coding", CODINGS)
# Text compresses, random bytes do not; long runs make a coder hold data back.
pieces = st.one_of(
    st.binary(max_size=2000),
    st.text(max_size=500).map(str.encode),
    st.tuples(st.binary(min_size=1, max_size=3), st.integers(0, 30_000)).map(lambda run: run[0] * run[1]),
)
bodies = st.lists(pieces, max_size=8)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in parts that end at `places`."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


def decode(reader: Decoder, parts: Iterable[bytes]) -> bytes:
    found = b"".join(piece for part in parts for piece in reader.pieces(part))
    reader.finish()
    return found


@given(codings, st.integers(1, 9), bodies, st.lists(st.integers(0, 100_000), max_size=10))
@settings(deadline=None)
def test_what_was_compressed_whole_decodes_however_it_is_cut(
    coding: Coding, level: int, body: list[bytes], places: list[int]
) -> None:
    whole = b"".join(body)
    assert decode(decoder(coding), cut(compress(coding, level, whole), places)) == whole


@given(codings, st.integers(1, 9), st.lists(st.tuples(pieces, st.booleans()), max_size=8))
@settings(deadline=None)
def test_what_was_compressed_in_pieces_decodes_and_a_flush_holds_nothing_back(
    coding: Coding, level: int, body: list[tuple[bytes, bool]]
) -> None:
    writer, reader = encoder(coding, level), decoder(coding)
    fed = seen = b""
    for piece, flushed in body:
        out = writer.feed(piece)
        if flushed:
            out += writer.flush()
        fed += piece
        seen += b"".join(reader.pieces(out))
        if flushed:
            assert seen == fed
    seen += b"".join(reader.pieces(writer.finish()))
    reader.finish()
    assert seen == fed


@every_coding
def test_other_libraries_read_what_we_write(coding: Coding) -> None:
    body = b"a stored response " * 100
    reference = {
        "gzip": gzip.decompress,
        "br": brotli.decompress,
        "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }[coding]
    assert reference(compress(coding, 4, body)) == body
    writer = encoder(coding, 4)
    assert reference(writer.feed(body) + writer.finish()) == body


@every_coding
def test_the_same_body_gives_the_same_bytes(coding: Coding) -> None:
    body = random.Random(1).randbytes(50_000)
    assert compress(coding, 5, body) == compress(coding, 5, body)


def test_a_gzip_header_names_no_time() -> None:
    assert compress("gzip", 6, b"x")[4:8] == b"\0\0\0\0"
    writer = encoder("gzip", 6)
    assert (writer.feed(b"x") + writer.finish())[4:8] == b"\0\0\0\0"


@every_coding
def test_a_body_that_ends_early_is_an_error(coding: Coding) -> None:
    data = compress(coding, 4, random.Random(1).randbytes(5_000))
    for end in (1, 5, len(data) // 2, len(data) - 1):
        with pytest.raises(CodingError, match="ends early"):
            decode(decoder(coding), [data[:end]])


@every_coding
def test_a_body_in_no_coding_is_an_error(coding: Coding) -> None:
    with pytest.raises(CodingError, match="no "):
        decode(decoder(coding), [b"\xff" * 100])


@every_coding
def test_no_body_at_all_decodes_to_none(coding: Coding) -> None:
    assert decode(decoder(coding), []) == b""


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_frames_that_follow_each_other_are_one_body(coding: Coding) -> None:
    data = compress(coding, 3, b"one") + compress(coding, 3, b"two")
    assert decode(decoder(coding), [data]) == b"onetwo"
    assert decode(decoder(coding), [data[place : place + 1] for place in range(len(data))]) == b"onetwo"


@every_coding
def test_a_body_that_grows_a_thousandfold_comes_in_bounded_pieces(coding: Coding) -> None:
    size = 64 << 20
    data = compress(coding, 1, bytes(size))
    assert len(data) * 200 < size
    lengths = [len(piece) for piece in decoder(coding).pieces(data)]
    assert sum(lengths) == size
    assert max(lengths) <= 8 << 20


@every_coding
def test_a_window_above_what_browsers_hold_is_not_used(coding: Coding) -> None:
    body = random.Random(2).randbytes(1 << 20) * 12  # repeats at a distance of 1 MiB
    data = compress(coding, 9, body)
    if coding == "zstd":
        assert zstandard.get_frame_parameters(data).window_size <= 8 << 20
    assert decode(decoder(coding), [data]) == body
