"""The content codings (RFC 9110 §8.4.1): gzip, brotli (RFC 7932) and Zstandard (RFC 8878), whole or in pieces.

Rule: the libraries are called here and nowhere else.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final, Literal, Protocol, TypeAlias, assert_never, cast, get_args

import brotli
import zstandard
from typing_extensions import override

Coding: TypeAlias = Literal["br", "zstd", "gzip"]
CODINGS: Final[tuple[Coding, ...]] = get_args(Coding)

# A window of 512 KiB: a brotli stream with the usual 4 MiB would hold that much for as long as it lasts.
_STREAM_WINDOW_LOG: Final = 19
_MIN_WINDOW_LOG: Final = 16
_MAX_WINDOW_LOG: Final = 22
_GZIP_FORMAT: Final = 31  # a gzip header, its time 0, around a window of 32 KiB
_ZSTD_MAX_WINDOW_BYTES: Final = 8 << 20  # what decoders are to support, RFC 8878 §3.1.1.1.2
_PIECE_BYTES: Final = 64 << 10
# zstandard's incremental decoder knows no limit on what it returns. Four bytes can stand for a block of 128 KiB, so 256
# bytes of input make at most 8 MiB of output.
_ZSTD_FEED_BYTES: Final = 256


class CodingError(Exception):
    """What was to be decoded is not in the coding it claims, or not all of it is there."""


class Encoder(Protocol):
    """Compresses a body piece by piece."""

    def feed(self, data: bytes) -> bytes:
        """Take `data`; return what is ready, which may be nothing."""
        ...

    def flush(self) -> bytes:
        """What makes all that was fed decodable."""
        ...

    def finish(self) -> bytes:
        """The end. Nothing may be called afterwards."""
        ...


class _Gzip:
    __slots__ = ("_stream", "feed", "finish")

    def __init__(self, level: int) -> None:
        self._stream = zlib.compressobj(level, zlib.DEFLATED, _GZIP_FORMAT)
        self.feed = self._stream.compress
        self.finish = self._stream.flush

    def flush(self) -> bytes:
        return self._stream.flush(zlib.Z_SYNC_FLUSH)


class _Brotli:
    __slots__ = ("feed", "finish", "flush")

    def __init__(self, level: int) -> None:
        stream = brotli.Compressor(quality=level, lgwin=_STREAM_WINDOW_LOG)
        self.feed = stream.process
        self.flush = stream.flush
        self.finish = stream.finish


class _Zstd:
    __slots__ = ("_stream", "feed", "finish")

    def __init__(self, level: int) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=_STREAM_WINDOW_LOG)
        self._stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        self.feed = self._stream.compress
        self.finish = self._stream.flush

    def flush(self) -> bytes:
        return self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


def encoder(coding: Coding, level: int) -> Encoder:
    """A new encoder. Not to be used by two threads at once; it lets others run while it works."""
    match coding:
        case "gzip":
            return _Gzip(level)
        case "br":
            return _Brotli(level)
        case "zstd":
            return _Zstd(level)
        case _:
            assert_never(coding)


def compress(coding: Coding, level: int, body: bytes) -> bytes:
    """All of `body` in `coding`. The same bytes for the same arguments."""
    match coding:
        case "gzip":
            stream = zlib.compressobj(level, zlib.DEFLATED, _GZIP_FORMAT)
            return stream.compress(body) + stream.flush()
        case "br":
            window_log = min(max(len(body).bit_length(), _MIN_WINDOW_LOG), _MAX_WINDOW_LOG)
            return cast("bytes", brotli.compress(body, quality=level, lgwin=window_log))
        case "zstd":
            return zstandard.ZstdCompressor(level=level).compress(body)
        case _:
            assert_never(coding)


class Decoder(ABC):
    """Decompresses a body piece by piece, however much it grows: no piece is above 8 MiB, and most are below 64 KiB."""

    @abstractmethod
    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What `data` decodes to. To be read to its end before the next call.

        Raises:
            CodingError: it cannot be decoded.
        """

    @abstractmethod
    def finish(self) -> None:
        """To be called when all was fed.

        Raises:
            CodingError: something is missing.
        """


class _Gunzip(Decoder):
    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_FORMAT)
        self._fed = False

    @override
    def pieces(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._member.eof:  # a file may hold several members, RFC 1952 §2.2
                    self._member = zlib.decompressobj(_GZIP_FORMAT)
                self._fed = True
                if piece := self._member.decompress(data, _PIECE_BYTES):
                    yield piece
                data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        except zlib.error as error:
            raise CodingError(f"no gzip data: {error}") from error

    @override
    def finish(self) -> None:
        # With no input at all there is nothing to miss: servers send HEAD-like empty bodies with a coding.
        if self._fed and not self._member.eof:
            raise CodingError("the gzip data ends early")


class _Unbrotli(Decoder):
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()
        self._fed = False

    @override
    def pieces(self, data: bytes) -> Iterator[bytes]:
        try:
            self._fed = self._fed or bool(data)
            # Until nothing comes: `can_accept_more_data` speaks of input not taken, not of output still held.
            while piece := self._stream.process(data, output_buffer_limit=_PIECE_BYTES):
                yield piece
                data = b""
        except brotli.error as error:
            raise CodingError(f"no brotli data: {error}") from error

    @override
    def finish(self) -> None:
        if self._fed and not self._stream.is_finished():
            raise CodingError("the brotli data ends early")


class _Unzstd(Decoder):
    def __init__(self) -> None:
        self._context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
        self._frame = self._context.decompressobj()
        self._fed = False

    @override
    def pieces(self, data: bytes) -> Iterator[bytes]:
        try:
            while data:
                if self._frame.eof:  # frames may follow each other, RFC 8878 §3
                    self._frame = self._context.decompressobj()
                self._fed = True
                part, data = data[:_ZSTD_FEED_BYTES], data[_ZSTD_FEED_BYTES:]
                if piece := self._frame.decompress(part):
                    yield piece
                data = self._frame.unused_data + data
        except zstandard.ZstdError as error:
            raise CodingError(f"no Zstandard data: {error}") from error

    @override
    def finish(self) -> None:
        if self._fed and not self._frame.eof:
            raise CodingError("the Zstandard data ends early")


def decoder(coding: Coding) -> Decoder:
    """A new decoder."""
    match coding:
        case "gzip":
            return _Gunzip()
        case "br":
            return _Unbrotli()
        case "zstd":
            return _Unzstd()
        case _:
            assert_never(coding)
