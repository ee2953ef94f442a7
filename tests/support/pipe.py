"""A pipe whose reader reads only when told."""

import fcntl
import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

PATIENCE_SECONDS = 10.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    deadline = monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not condition():
        assert monotonic() < deadline, "the condition never came true"
        pause.wait(0.002)


@dataclass
class Pipe:
    """A pipe whose reader reads only when told."""

    read_fd: int
    write_fd: int

    def read_available(self) -> bytes:
        chunks: list[bytes] = []
        while select.select([self.read_fd], [], [], 0)[0]:
            chunk = os.read(self.read_fd, 1 << 20)
            if not chunk:
                break
            chunks.append(chunk)
        return b"".join(chunks)

    def read_until(self, enough: Callable[[bytes], bool]) -> bytes:
        read = b""

        def more() -> bool:
            nonlocal read
            read += self.read_available()
            return enough(read)

        wait_until(more)
        return read


@contextmanager
def open_pipe() -> Iterator[Pipe]:
    """A pipe that holds 64 KiB, closed in the end."""
    read_fd, write_fd = os.pipe()
    fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, 65536)
    try:
        yield Pipe(read_fd, write_fd)
    finally:
        os.close(read_fd)
        os.close(write_fd)
