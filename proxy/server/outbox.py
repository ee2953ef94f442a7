"""Answers of one turn of the event loop, written together when it ends.

Writing to a socket runs the kernel's network code, the receiver's side of it included where that is on the same
machine, and what runs next finds the processor's caches and branch predictors full of it. Requests that came in the
same turn are therefore answered first and written afterwards.
"""

import asyncio
from collections.abc import Callable
from typing import Final, final

from proxy.server.kept_reply import Wire

MOST_WAITING: Final = 64
"""So many are written without waiting for the turn's end: the first of a thousand must not wait for the last."""


@final
class Outbox:
    """Those of one event loop.

    Args:
        call_soon: of the loop.

    Attributes:
        waiting: is there anything to be written? Whoever writes to one of the transports, or closes it, flushes first.
    """

    __slots__ = ("_call_soon", "waiting")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self.waiting: list[tuple[asyncio.Transport, Wire]] = []

    def put(self, transport: asyncio.Transport, wire: Wire) -> None:
        """Have `wire` written."""
        waiting = self.waiting
        waiting.append((transport, wire))
        if len(waiting) == 1:
            self._call_soon(self.flush)
        elif len(waiting) >= MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Write everything, now. What has no client any more is dropped."""
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        for transport, wire in waiting:
            if transport.is_closing():
                continue
            if isinstance(wire, bytes):
                transport.write(wire)
            elif isinstance(wire, tuple):
                transport.writelines(wire)
            else:
                wire.send(transport)
