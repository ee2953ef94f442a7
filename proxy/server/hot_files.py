"""Which answers of the fast lane are sent from files."""

from typing import Final

from proxy.server.kept_reply import KeptReply
from proxy.server.memory_file import MemoryFile

LEAST_BYTES: Final = 16_384
"""Of a body. From here on a file saves a seventh of what an answer costs, of 128 KB two fifths."""

LEAST_USES: Final = 16
"""Between two renewals, mostly a second apart. Making a file costs as much as five uses of it save."""

MOST_FILES: Final = 128
"""As descriptors are for clients."""


class HotFiles:
    """The files of long answers that are given many times a second.

    A file lasts until its answer is renewed, or another one while nobody asks for it: it is outdated then, whatever
    becomes of it.

    Args:
        max_bytes: what they may take together.

    Attributes:
        bytes: what they take; it is part of their replies' sizes.
    """

    __slots__ = ("_files", "_max_bytes", "bytes")

    def __init__(self, max_bytes: int) -> None:
        self._files: dict[KeptReply, MemoryFile] = {}  # the longest not renewed first
        self._max_bytes = max_bytes
        self.bytes = 0

    def renewed(self, reply: KeptReply, now: float) -> int:
        """Put `reply`, which was just renewed, into a file if that pays.

        Args:
            now: wall seconds.

        Returns:
            By how many bytes all replies weigh more now.
        """
        if reply.body_bytes < LEAST_BYTES:
            return 0
        before = self.bytes
        self.forget(reply)
        parts = reply.whole
        if reply.uses_since() >= LEAST_USES and parts is not None:
            for other in list(self._files):
                if now < other.until:
                    break
                self.forget(other)
                other.outdate()
            size = sum(map(len, parts))
            fits = size <= self._max_bytes // 4 and self.bytes + size <= self._max_bytes
            if fits and len(self._files) < MOST_FILES and (file := MemoryFile.of(parts)) is not None:
                self._files[reply] = reply.wire = file
                self.bytes += file.size
                reply.size += file.size
        return self.bytes - before

    def forget(self, reply: KeptReply) -> None:
        """`reply` weighs nothing more for a file, if it had one."""
        file = self._files.pop(reply, None)
        if file is not None:
            self.bytes -= file.size
            reply.size -= file.size
