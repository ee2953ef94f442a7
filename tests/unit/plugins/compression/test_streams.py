"""Streams in and out of a coding: nothing is lost, nothing is held up, everything is closed."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from plugins.compression.codecs import CODINGS, Coding, compress, decoder
from plugins.compression.streams import DecodedStream, EncodedStream, SingleChunk, Tally
from plugins.compression.threads import CodingThreads
from proxy.errors import UpstreamError, UpstreamIncompleteError
from proxy.http.body import BodyStream
from proxy.metrics.registry import Counter
from proxy.tasks import Tasks
from tests.support.plugin_harness import ChunkStream

every_coding = pytest.mark.parametrize("coding", CODINGS)


class Feed(BodyStream):
    """A stream that a test feeds."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.closed = False
        self._reading = False

    @override
    async def __anext__(self) -> bytes:
        assert not self._reading, "a stream has one reader"
        self._reading = True
        try:
            chunk = await self.chunks.get()
        finally:
            self._reading = False
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    @override
    async def aclose(self) -> None:
        self.closed = True


def encoded(
    source: BodyStream, coding: Coding, *, tasks: Tasks | None = None, flush_after_seconds: float = 60
) -> EncodedStream:
    return EncodedStream(
        source,
        coding,
        4,
        threads=CodingThreads(2),
        tasks=Tasks() if tasks is None else tasks,
        tally=Tally(Counter(), Counter()),
        flush_after_seconds=flush_after_seconds,
    )


async def everything(stream: BodyStream) -> bytes:
    try:
        chunks = [chunk async for chunk in stream]
    finally:
        await stream.aclose()
    assert all(chunks)
    return b"".join(chunks)


chunks = st.lists(st.one_of(st.binary(min_size=1, max_size=300), st.integers(1, 40_000).map(bytes)), max_size=10)


@given(st.sampled_from(CODINGS), chunks, st.sampled_from([0, 60]))
@settings(deadline=None)
async def test_encoding_and_decoding_give_back_what_went_in(coding: Coding, body: list[bytes], wait: float) -> None:
    stream = encoded(ChunkStream(body), coding, flush_after_seconds=wait)
    assert await everything(DecodedStream(stream, decoder(coding))) == b"".join(body)


@given(st.sampled_from(CODINGS), st.binary(max_size=5000), st.integers(1, 100))
@settings(deadline=None)
async def test_decoding_does_not_mind_where_chunks_end(coding: Coding, body: bytes, size: int) -> None:
    packed = compress(coding, 3, body)
    source = ChunkStream(packed[start : start + size] for start in range(0, len(packed), size))
    assert await everything(DecodedStream(source, decoder(coding))) == body


@every_coding
async def test_each_event_comes_through_at_once(coding: Coding) -> None:
    source, reader = Feed(), decoder(coding)
    stream = encoded(source, coding, flush_after_seconds=0)
    for number in range(5):
        event = f"data: {number}\n\n".encode()
        source.chunks.put_nowait(event)
        async with asyncio.timeout(10):
            assert b"".join(reader.pieces(await anext(stream))) == event
    source.chunks.put_nowait(None)
    assert b"".join(reader.pieces(await everything(stream))) == b""
    reader.finish()
    assert source.closed


@every_coding
async def test_what_was_sent_before_a_pause_comes_through_during_the_pause(coding: Coding) -> None:
    source, reader = Feed(), decoder(coding)
    stream = encoded(source, coding, flush_after_seconds=0.01)
    seen = b""
    for number in range(3):
        line = f'{{"number": {number}}}\n'.encode()
        source.chunks.put_nowait(line)
        expected = seen + line
        async with asyncio.timeout(10):
            while seen != expected:  # the source has nothing more, and has not ended
                seen += b"".join(reader.pieces(await anext(stream)))
    source.chunks.put_nowait(None)
    assert b"".join(reader.pieces(await everything(stream))) == b""


async def test_a_fast_source_is_not_flushed_chunk_by_chunk() -> None:
    lines = [f'{{"number": {number}, "name": "some item"}}\n'.encode() for number in range(2000)]
    packed = await everything(encoded(ChunkStream(lines), "gzip"))
    flushed = await everything(encoded(ChunkStream(lines), "gzip", flush_after_seconds=0))
    assert len(packed) * 3 < len(flushed)


@every_coding
async def test_an_empty_stream_is_an_empty_body_in_the_coding(coding: Coding) -> None:
    assert await everything(DecodedStream(encoded(ChunkStream([]), coding), decoder(coding))) == b""


@pytest.mark.parametrize("flush_after_seconds", [0, 60])
async def test_a_source_that_breaks_breaks_the_stream(flush_after_seconds: float) -> None:
    source = ChunkStream([b"some", b"thing"], error=UpstreamIncompleteError("cut off"))
    with pytest.raises(UpstreamIncompleteError):
        await everything(encoded(source, "br", flush_after_seconds=flush_after_seconds))
    assert source.closed


async def test_a_source_that_fails_for_no_known_reason_is_not_taken_for_complete() -> None:
    class Broken(ChunkStream):
        @override
        async def __anext__(self) -> bytes:
            if self.delivered:
                raise RuntimeError("a mistake")
            return await super().__anext__()

    with pytest.raises(RuntimeError, match="a mistake"):
        await everything(encoded(Broken([b"x", b"y"]), "br"))


async def test_closing_during_a_pause_ends_the_read_and_closes_the_source() -> None:
    source, tasks = Feed(), Tasks()
    stream = encoded(source, "gzip", tasks=tasks, flush_after_seconds=0.001)
    source.chunks.put_nowait(b"x" * 100)
    async with asyncio.timeout(10):
        await anext(stream)  # the header
        await anext(stream)  # the flush; a read is under way
    assert len(tasks) == 1
    await stream.aclose()
    assert len(tasks) == 0
    assert source.closed
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_reader_that_gives_up_waiting_loses_nothing() -> None:
    source, reader = Feed(), decoder("gzip")
    stream = encoded(source, "gzip")
    source.chunks.put_nowait(b"one ")
    packed = await anext(stream)  # gzip's header comes at once
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.01)
    source.chunks.put_nowait(b"two")
    source.chunks.put_nowait(None)
    packed += await everything(stream)
    assert b"".join(reader.pieces(packed)) == b"one two"
    reader.finish()


async def test_bytes_are_counted_on_both_sides() -> None:
    tally = Tally(Counter(), Counter())
    stream = EncodedStream(
        ChunkStream([b"a" * 50_000, b"b" * 1000]),
        "br",
        4,
        threads=CodingThreads(1),
        tasks=Tasks(),
        tally=tally,
        flush_after_seconds=60,
    )
    packed = await everything(stream)
    assert (tally.bytes_in.value, tally.bytes_out.value) == (51_000, len(packed))


async def test_decoding_closes_its_source() -> None:
    source = ChunkStream([b"never", b"read"])
    await DecodedStream(source, decoder("br")).aclose()
    assert source.closed


async def test_what_cannot_be_decoded_says_whose_fault_it_is() -> None:
    with pytest.raises(UpstreamError, match="cannot be decoded") as raised:
        await everything(DecodedStream(ChunkStream([b"plain text"]), decoder("zstd")))
    assert raised.value.error_type == "http_response_content_coding"


async def test_bytes_can_be_read_as_a_stream_once() -> None:
    assert await everything(SingleChunk(b"all")) == b"all"
    assert await everything(SingleChunk(b"")) == b""
    unread = SingleChunk(b"never read")
    await unread.aclose()
    assert await everything(unread) == b""


async def test_threads_are_started_when_needed_and_given_up() -> None:
    threads = CodingThreads(1)
    assert await threads.run(lambda: b"short", 10, "br", 4) == b"short"
    assert threads._pool is None
    assert await threads.run(lambda: b"long", 1 << 20, "br", 4) == b"long"
    assert await threads.run(lambda: b"slow", 10, "br", 11) == b"slow"
    threads.close()
    threads.close()
    assert threads._pool is None
