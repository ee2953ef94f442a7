"""Messages between two processes of ours: a Unix socket that keeps their boundaries, and can carry descriptors."""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import orjson

MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_DESCRIPTORS: Final = 4

Message: TypeAlias = Mapping[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a new channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send `message`, with copies of `descriptors`.

    Raises:
        OSError: the other end is gone, or does not read.
    """
    socket.send_fds(end, [orjson.dumps(message)], descriptors)


def receive(end: socket.socket) -> tuple[Message | None, list[int]]:
    """The next message and what came with it; None: the other end is gone.

    Raises:
        BlockingIOError: `end` does not block, and there is none.
    """
    try:
        data, descriptors, _, _ = socket.recv_fds(end, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
    except ConnectionError:
        return None, []
    if not data:
        return None, []
    message: Message = orjson.loads(data)
    return message, descriptors


class Channel:
    """An end of a channel on an event loop.

    Args:
        received: called with each message.
        ended: called once when the other end is gone, and not after `close`.
    """

    def __init__(self, end: socket.socket, received: Callable[[Message], None], ended: Callable[[], None]) -> None:
        end.setblocking(False)
        self._end = end
        self._received = received
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end.fileno(), self._read)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Send `message`; False: the other end is gone or stuck."""
        try:
            send(self._end, message, descriptors)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the end. Safe to call twice."""
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end.fileno())
            self._end.close()

    def _read(self) -> None:
        while self._end.fileno() >= 0:
            try:
                message, _ = receive(self._end)
            except BlockingIOError:
                return
            if message is None:
                self.close()
                self._ended()
                return
            self._received(message)
