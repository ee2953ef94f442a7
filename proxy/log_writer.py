"""Lines to a file descriptor, by a thread: whoever writes never waits for whoever reads.

Theory of operation. A line is left in a buffer bounded in bytes. A thread gathers lines and writes them. When the
reader of the descriptor stops, the buffer fills, further lines are dropped and counted, and a line says how many once
it flows again. Lines leave in whole-line pieces of at most `PIPE_BUF` bytes where they fit: the kernel writes such a
piece to a pipe in one go, so that several processes can share one without tearing each other's lines.

Measured with a busy event loop on the other core: 70,000 lines a second of 250 bytes go through a pipe without a drop.
What holds more up is not the pipe but the interpreter lock, which the thread must win back after each piece.
"""

import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

# Waking the thread costs the event loop its interpreter lock, and 200 µs where both share a core: it looks for lines
# every 20 ms by itself, and is woken only when it has found none.
_GATHER_SECONDS: Final = 0.02
_POLL_MILLISECONDS: Final = 100
_FILE_PIECE_BYTES: Final = 1 << 18

_Lines: TypeAlias = tuple[bytes, int]  # so many of them in one text


class LineWriter:
    """Lines to a file descriptor, by a thread of its own.

    Args:
        fd: where they go; stays open.
        max_buffered_bytes: what waits for the reader at most; a line beyond is dropped.
        render_dropped: the line that reports so many dropped ones.

    Attributes:
        dropped: lines that were never written, for want of room or because writing failed.
    """

    def __init__(self, fd: int, max_buffered_bytes: int, render_dropped: Callable[[int], bytes]) -> None:
        self._fd = fd
        self._piece_bytes = _FILE_PIECE_BYTES if _never_blocks(fd) else select.PIPE_BUF
        self._max_bytes = max_buffered_bytes
        self._render_dropped = render_dropped
        self._lock = threading.Lock()  # held for a few instructions, never while writing
        self._lines: deque[_Lines] = deque()
        self._buffered_bytes = 0  # of lines not yet written, those in the thread's hands included
        self._ready = threading.Semaphore(0)
        self._resting = False  # the thread waits to be woken
        self._closing = threading.Event()
        self._abandoned = False
        self._torn = False  # the last line out lacks its end
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Leave `line`, which ends with a newline, for the thread. Never waits; from any thread."""
        self.write_all(line, 1)

    def write_all(self, text: bytes, count: int) -> None:
        """Leave `count` lines, each as `write` does. If there are several, newlines stand at their ends alone."""
        with self._lock:
            if self._closing.is_set():
                self.dropped += count
            elif self._fits(text):
                self._take(text, count)
            else:
                self._take_what_fits(text, count)
            if not self._resting or not self._lines:
                return
            self._resting = False
        self._ready.release()

    def _fits(self, text: bytes) -> bool:
        return self._buffered_bytes + len(text) <= self._max_bytes

    def _take(self, text: bytes, count: int) -> None:
        self._lines.append((text, count))
        self._buffered_bytes += len(text)

    def _take_what_fits(self, text: bytes, count: int) -> None:
        for line, _ in _cut([(text, count)], 1):
            if self._fits(line):
                self._take(line, 1)
            else:
                self.dropped += 1

    def close(self, timeout_seconds: float) -> bool:
        """Write what waits, for at most `timeout_seconds`, and end the thread. Whether everything was written."""
        self._closing.set()
        self._ready.release()
        self._thread.join(timeout_seconds)
        self._abandoned = True
        # Poll looks up from a full pipe ten times a second; anything else that blocks ends with the process.
        self._thread.join(3 * _POLL_MILLISECONDS / 1000)
        return not self._buffered_bytes

    def _run(self) -> None:
        reported = 0
        while not self._abandoned:
            closing = self._closing.wait(_GATHER_SECONDS)
            with self._lock:
                lines, self._lines = self._lines, deque()
                self._resting = not lines
            if lines:
                written = self._write_lines(lines)
                if written and (dropped := self.dropped) > reported:
                    self._write_lines([(self._render_dropped(dropped - reported), 1)], counted=False)
                    reported = dropped
            elif closing:
                return
            else:
                self._ready.acquire()

    def _write_lines(self, lines: Iterable[_Lines], *, counted: bool = True) -> bool:
        """Write `lines`; whether all were. Those that cannot be are dropped, but for `close`, which leaves them."""
        done = True
        for piece, count in _pieces(lines, self._piece_bytes):
            written = self._write_piece(piece)
            if self._abandoned and not written:
                return False
            done = done and written
            if counted:
                with self._lock:
                    self._buffered_bytes -= len(piece)
                    self.dropped += 0 if written else count
        return done

    def _write_piece(self, piece: bytes) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        rest = memoryview(b"\n" + piece if self._torn else piece)
        while rest:
            # What polls as writable takes such a piece without blocking: the thread stays answerable.
            while not poll.poll(_POLL_MILLISECONDS):
                if self._abandoned:
                    return False
            try:
                rest = rest[os.write(self._fd, rest[: self._piece_bytes]) :]
            except BlockingIOError:
                continue  # another process was quicker
            except OSError:  # the reader is gone or the disk is full: nobody can be told but the counter
                self._torn = self._torn or len(rest) < len(piece)
                return False
        self._torn = False
        return True


def _never_blocks(fd: int) -> bool:
    """Whether `fd` is a file or a device such as /dev/null, and no pipe, socket or terminal."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False  # closed: writing will say so
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not os.isatty(fd))


def _pieces(lines: Iterable[_Lines], max_bytes: int) -> Iterator[_Lines]:
    """`lines` joined to pieces of whole lines, none above `max_bytes` unless it is one line."""
    piece: list[bytes] = []
    size = lines_in_piece = 0
    for text, count in _cut(lines, max_bytes):
        if piece and size + len(text) > max_bytes:
            yield b"".join(piece), lines_in_piece
            piece, size, lines_in_piece = [], 0, 0
        piece.append(text)
        size += len(text)
        lines_in_piece += count
    if piece:
        yield b"".join(piece), lines_in_piece


def _cut(lines: Iterable[_Lines], max_bytes: int) -> Iterator[_Lines]:
    """`lines`, but texts above `max_bytes` in parts of whole lines."""
    for text, count in lines:
        start, left = 0, count
        while left > 1 and len(text) - start > max_bytes:
            end = text.rfind(b"\n", start, start + max_bytes) + 1 or text.index(b"\n", start) + 1
            cut = text.count(b"\n", start, end)
            yield text[start:end], cut
            start, left = end, left - cut
        yield text[start:], left
