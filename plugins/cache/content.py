"""The content of a request whose responses are kept by it: read before the cache looks, as far as the cap allows."""

from dataclasses import replace

from typing_extensions import override

from proxy.http.body import BodyStream, WrappedStream
from proxy.http.message import Request


class _Resumed(WrappedStream):
    """A stream that was read in part: first what was read, then the rest."""

    __slots__ = ("_read",)

    def __init__(self, read: list[bytes], rest: BodyStream) -> None:
        super().__init__(rest)
        self._read = read

    @override
    async def __anext__(self) -> bytes:
        return self._read.pop(0) if self._read else await self._source.__anext__()


async def read_content(request: Request, max_bytes: int) -> tuple[Request, bool]:
    """`request` with its body as `bytes`, and whether it is that: not when it is longer than `max_bytes`.

    Nothing is lost of a longer one: its stream begins with what has been read. One that says how long it is, and is too
    long, is not read at all.

    Raises:
        ProxyError: the body broke off.
    """
    body = request.body
    if isinstance(body, bytes):
        return request, len(body) <= max_bytes
    length = request.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > max_bytes:
        return request, False
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in body:
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                return replace(request, body=_Resumed(chunks, body)), False
    except BaseException:
        await body.aclose()
        raise
    await body.aclose()
    return replace(request, body=b"".join(chunks)), True
