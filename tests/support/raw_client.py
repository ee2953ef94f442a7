"""A client that sends the bytes it is given and shows the bytes it gets."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from proxy.address import Address

DEADLINE_SECONDS = 10.0


@dataclass(frozen=True)
class RawResponse:
    """A response as it came: no field merged, no coding undone but chunked."""

    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    body: bytes
    chunked: bool = False

    def all(self, name: str) -> list[str]:
        return [value for field, value in self.fields if field.lower() == name.lower()]

    def field(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1, f"{name} stands {len(values)} times"
        return values[0] if values else None


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, address: Address, *, receive_buffer_bytes: int | None = None) -> Self:
        if address.path:
            return cls(*await asyncio.open_unix_connection(address.path))
        if receive_buffer_bytes is None:
            return cls(*await asyncio.open_connection(address.host, address.port))
        sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
        return cls(*await asyncio.open_connection(sock=sock, limit=1024))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self.writer.wait_closed()
        except OSError:  # a reset, or ENOTCONN, which is no ConnectionError
            pass

    def reset(self) -> None:
        """Leave at once: the server gets a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def send(self, *parts: bytes) -> None:
        """Send each part in a packet of its own."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            if len(parts) > 1:
                await asyncio.sleep(0)

    async def read_exactly(self, count: int) -> bytes:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.reader.readexactly(count)

    async def read_until(self, end: bytes) -> bytes:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.reader.readuntil(end)

    async def read_rest(self) -> bytes:
        """Everything up to the end of the connection.

        Raises:
            ConnectionError: it was reset.
        """
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.reader.read()

    async def closed(self) -> bool:
        """Whether the server ends the connection without a further byte."""
        try:
            return await self.read_rest() == b""
        except ConnectionError:
            return True

    async def head(self) -> RawResponse:
        """The next response's head."""
        lines = (await self.read_until(b"\r\n\r\n"))[:-4].decode("utf-8", "surrogateescape").split("\r\n")
        version, status, reason = lines[0].split(" ", 2)
        assert version == "HTTP/1.1", lines[0]
        fields = tuple((name, value) for name, value in (line.split(": ", 1) for line in lines[1:]))
        return RawResponse(int(status), reason, fields, b"")

    async def response(self, method: str = "GET") -> RawResponse:
        """The next final response, body included."""
        head = await self.head()
        while 100 <= head.status < 200:
            head = await self.head()
        chunked = head.field("Transfer-Encoding") == "chunked"
        length = head.field("Content-Length")
        if method == "HEAD" or head.status in {204, 304}:
            body = b""
        elif chunked:
            body = b"".join(await self.chunks())
        elif length is not None:
            body = await self.read_exactly(int(length))
        else:
            body = await self.read_rest()
        return RawResponse(head.status, head.reason, head.fields, body, chunked)

    async def chunk(self) -> bytes:
        """The next chunk; empty for the last."""
        size = int(await self.read_until(b"\r\n"), 16)
        data = await self.read_exactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def chunks(self) -> list[bytes]:
        chunks: list[bytes] = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return chunks

    async def ask(self, *parts: bytes, method: str = "GET") -> RawResponse:
        """Send `parts` and read one response."""
        await self.send(*parts)
        return await self.response(method)


def request(
    target: str = "/", *fields: str, method: str = "GET", host: str | None = "example.com", version: str = "1.1"
) -> bytes:
    """A request's head."""
    lines: Sequence[str] = [
        f"{method} {target} HTTP/{version}",
        *([f"Host: {host}"] if host is not None else []),
        *fields,
    ]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
