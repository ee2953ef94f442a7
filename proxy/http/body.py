"""Bodies. A body is `bytes` when it is small and known, else a `BodyStream`: read once, closed always."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import TypeAlias

from typing_extensions import override


class BodyStream(ABC):
    """An async iterator of non-empty `bytes` that owns something: a connection, a subscription, a file.

    Whoever holds a stream closes it, read to its end or not. A class, not an async generator: closing a generator that
    was never started skips its `finally`, and what it owns would leak.
    """

    __slots__ = ()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    @abstractmethod
    async def __anext__(self) -> bytes:
        """The next bytes, as soon as there are any.

        Raises:
            StopAsyncIteration: at the end of a complete body.
            ProxyError: the body cannot be completed.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of what the stream owns. Safe to call twice, and at any moment."""


Body: TypeAlias = bytes | BodyStream


class WrappedStream(BodyStream):
    """A stream that passes another on; subclasses change what goes by. Closes its source."""

    __slots__ = ("_source",)

    def __init__(self, source: BodyStream) -> None:
        self._source = source

    @override
    async def __anext__(self) -> bytes:
        return await self._source.__anext__()

    @override
    async def aclose(self) -> None:
        await self._source.aclose()


async def read_body(body: Body, max_bytes: int) -> bytes | None:
    """The whole body, or None as soon as it is seen to be longer than `max_bytes`. Closes a stream in any case."""
    if isinstance(body, bytes):
        return body if len(body) <= max_bytes else None
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in body:
            size += len(chunk)
            if size > max_bytes:
                return None
            chunks.append(chunk)
    finally:
        await body.aclose()
    return b"".join(chunks)


async def close_body(body: Body) -> None:
    """Close `body` if it is a stream."""
    if not isinstance(body, bytes):
        await body.aclose()
