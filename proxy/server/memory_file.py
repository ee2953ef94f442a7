"""Bytes in a file in memory: the kernel sends its pages as they are, where it copies every byte of what is written."""

import asyncio
import os
from collections.abc import Sequence
from typing import Self


class MemoryFile:
    """What is sent as one, in a file without a name, for as long as this object lives.

    It never changes: pages that the socket took may still be on their way, or wait for a client that is slow to read.

    Args:
        descriptor: of the file; it is closed with this object.
        parts: what stands in it.
    """

    __slots__ = ("descriptor", "parts", "size")

    def __init__(self, descriptor: int, parts: Sequence[bytes]) -> None:
        self.descriptor = descriptor
        self.parts = tuple(parts)
        self.size = sum(map(len, parts))

    @classmethod
    def of(cls, parts: Sequence[bytes]) -> Self | None:
        """A file of `parts`; None if there is no memory or no descriptor left for one."""
        try:
            file = cls(os.memfd_create("sidecache-reply", os.MFD_CLOEXEC), parts)
            return file if os.writev(file.descriptor, file.parts) == file.size else None
        except OSError:
            return None

    def __del__(self) -> None:
        os.close(self.descriptor)

    def send(self, transport: asyncio.Transport) -> None:
        """Send everything: what the socket takes at once by the kernel alone, the rest by the transport.

        Args:
            transport: of a plain socket, or of none.
        """
        sent = 0
        # What the transport was given before goes first.
        if not transport.get_write_buffer_size() and (socket := transport.get_extra_info("socket")) is not None:
            try:
                sent = os.sendfile(socket.fileno(), self.descriptor, 0, self.size)
            except OSError:
                sent = 0  # the socket takes nothing now, or never again: the transport finds out, as always
        if sent < self.size:
            transport.writelines(self._behind(sent))

    def _behind(self, sent: int) -> list[memoryview]:
        rest: list[memoryview] = []
        for part in self.parts:
            if sent < len(part):
                rest.append(memoryview(part)[sent:])
            sent = max(0, sent - len(part))
        return rest
