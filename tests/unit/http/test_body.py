"""Bodies: read whole, closed always."""

import pytest
from typing_extensions import override

from proxy.http.body import BodyStream, WrappedStream, close_body, read_body


class Chunks(BodyStream):
    """Chunks from a list; counts how often it is closed, and may fail before its end."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self._chunks = list(chunks)
        self._error = error
        self.closed = 0

    @override
    async def __anext__(self) -> bytes:
        if self._chunks:
            return self._chunks.pop(0)
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    @override
    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(("limit", "expected"), [(0, None), (4, None), (5, b"abcde"), (6, b"abcde")])
async def test_body_is_read_up_to_a_limit(limit: int, expected: bytes | None) -> None:
    stream = Chunks(b"ab", b"cde")
    assert await read_body(stream, limit) == expected
    assert stream.closed == 1
    assert await read_body(b"abcde", limit) == expected


async def test_stream_that_fails_is_closed() -> None:
    stream = Chunks(b"ab", error=OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await read_body(stream, 10)
    assert stream.closed == 1


async def test_wrapped_stream_passes_on_and_closes_its_source() -> None:
    source = Chunks(b"a", b"b")
    wrapped = WrappedStream(source)
    assert [chunk async for chunk in wrapped] == [b"a", b"b"]
    await wrapped.aclose()
    assert source.closed == 1


async def test_closing_bytes_does_nothing_and_closing_a_stream_closes_it() -> None:
    stream = Chunks()
    await close_body(b"abc")
    await close_body(stream)
    assert stream.closed == 1
