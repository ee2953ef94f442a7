"""Bodies that are compressed or decompressed as they go by.

A compressor holds back what it has not decided how to write. Two rules keep that from holding up a client: of a type
that is read event by event each chunk is flushed, and of others what is held back is flushed as soon as the source has
had nothing for a while. So a fast body is packed well, and a slow one arrives as it is sent.
"""

import asyncio
from collections.abc import Callable, Iterator

from typing_extensions import override

from plugins.compression.codecs import Coding, CodingError, Decoder, encoder
from plugins.compression.threads import CodingThreads
from proxy.errors import ProxyError, UpstreamError
from proxy.http.body import BodyStream, WrappedStream
from proxy.metrics.registry import Counter
from proxy.tasks import Tasks


class Tally:
    """Bytes before and after."""

    __slots__ = ("bytes_in", "bytes_out")

    def __init__(self, bytes_in: Counter, bytes_out: Counter) -> None:
        self.bytes_in = bytes_in
        self.bytes_out = bytes_out


class EncodedStream(WrappedStream):
    """`source` in `coding`.

    Args:
        tasks: runs the reads that may be left waiting while a flush goes out.
        flush_after_seconds: how long the source may have nothing before what is held back goes out; 0: each chunk is
            flushed at once.
    """

    __slots__ = (
        "_coding",
        "_encoder",
        "_ended",
        "_flush_after",
        "_held",
        "_level",
        "_read",
        "_tally",
        "_tasks",
        "_threads",
    )

    def __init__(
        self,
        source: BodyStream,
        coding: Coding,
        level: int,
        *,
        threads: CodingThreads,
        tasks: Tasks,
        tally: Tally,
        flush_after_seconds: float,
    ) -> None:
        super().__init__(source)
        self._coding = coding
        self._level = level
        self._encoder = encoder(coding, level)
        self._threads = threads
        self._tasks = tasks
        self._tally = tally
        self._flush_after = flush_after_seconds
        self._held = 0  # bytes fed since the last flush
        self._ended = False
        self._read: asyncio.Task[bytes | ProxyError | None] | None = None

    @override
    async def __anext__(self) -> bytes:
        while not self._ended:
            out = await self._step()
            if out:
                self._tally.bytes_out.value += len(out)
                return out
        raise StopAsyncIteration

    @override
    async def aclose(self) -> None:
        self._ended = True
        read, self._read = self._read, None
        if read is not None:
            read.cancel()
            await asyncio.wait({read})
        await super().aclose()

    async def _step(self) -> bytes:
        """What the next chunk, the end, or a pause of the source brings; possibly nothing."""
        held, writer = self._held, self._encoder
        if held and await self._pauses():
            self._held = 0
            return await self._run(writer.flush, held)
        chunk = await self._next()
        if isinstance(chunk, ProxyError):
            raise chunk
        if chunk is None:
            self._ended = True
            return await self._run(writer.finish, held)
        data = chunk
        self._tally.bytes_in.value += len(data)
        if not self._flush_after:
            return await self._run(lambda: writer.feed(data) + writer.flush(), len(data))
        self._held = held + len(data)
        return await self._run(lambda: writer.feed(data), len(data))

    async def _pauses(self) -> bool:
        """Whether the source has nothing for longer than it may; the read goes on meanwhile."""
        if self._read is None:
            self._read = self._tasks.start("compression.read", _pull(self._source))
        done, _ = await asyncio.wait({self._read}, timeout=self._flush_after)
        return not done

    async def _next(self) -> bytes | ProxyError | None:
        """What the read under way brings, or one of its own."""
        if self._read is None:
            return await _pull(self._source)
        await asyncio.wait({self._read})  # which leaves it alone if we are cancelled
        chunk, self._read = self._read.result(), None
        return chunk

    async def _run(self, work: Callable[[], bytes], size: int) -> bytes:
        return await self._threads.run(work, size, self._coding, self._level)


async def _pull(source: BodyStream) -> bytes | ProxyError | None:
    """The next chunk, None at the end; an error as a value, because it is not for the log of failed tasks."""
    try:
        return await source.__anext__()
    except StopAsyncIteration:
        return None
    except ProxyError as error:
        return error


class DecodedStream(WrappedStream):
    """`source`, which is in the coding of `decoder`, without it."""

    __slots__ = ("_decoder", "_pieces")

    def __init__(self, source: BodyStream, decoder: Decoder) -> None:
        super().__init__(source)
        self._decoder = decoder
        self._pieces: Iterator[bytes] = iter(())

    @override
    async def __anext__(self) -> bytes:
        try:
            while True:
                for piece in self._pieces:
                    return piece
                try:
                    chunk = await self._source.__anext__()
                except StopAsyncIteration:
                    self._decoder.finish()
                    raise
                self._pieces = self._decoder.pieces(chunk)
        except CodingError as error:
            raise UpstreamError(
                f"the upstream's response cannot be decoded: {error}", error_type="http_response_content_coding"
            ) from error


class SingleChunk(BodyStream):
    """Bytes as a stream."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @override
    async def __anext__(self) -> bytes:
        data, self._data = self._data, b""
        if not data:
            raise StopAsyncIteration
        return data

    @override
    async def aclose(self) -> None:
        self._data = b""
