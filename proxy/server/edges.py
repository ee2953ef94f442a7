"""Where messages end in what arrives, as far as that can be told without parsing."""

import re
from typing import Final

from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

NOWHERE: Final = -1
_EMPTY_LINE: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,9})\r\n")


class MessageEdges:
    """One connection's incoming bytes: every head and every chunked body ends with an empty line, and a body of known
    length where that length does.

    Attributes:
        payload: the newest message's body.
        body_bytes: its length as declared; None: it is not.
    """

    __slots__ = ("_seam", "body_bytes", "payload")

    def __init__(self) -> None:
        self._seam = b""  # the last three bytes received
        self.payload: StreamReader = EMPTY_PAYLOAD
        self.body_bytes: int | None = None

    def next(self, data: bytes, start: int) -> int:
        """Where in `data`, from `start` on, the present message ends, or may end; `NOWHERE`: not in there, or it seems
        to end where `data` does, body and all: to feed the parser twice costs as much again as to feed it once.

        An empty line may have begun in an earlier chunk of data.
        """
        if self.body_bytes is not None and not self.payload.is_eof():
            return start + self.body_bytes - self.payload.total_bytes
        if not start:
            place = (self._seam + data[:3]).find(_EMPTY_LINE)
            if place >= 0:
                return place + len(_EMPTY_LINE) - len(self._seam)
        place = data.find(_EMPTY_LINE, start)
        if place < 0:
            return NOWHERE
        end = place + len(_EMPTY_LINE)
        if end < len(data):
            length = _LENGTH.search(data, start, end)
            if length is not None and int(length[1]) == len(data) - end:
                return NOWHERE  # head and body in one piece, unless the parser sees it otherwise: it has to say itself
        return end

    def passed(self, data: bytes) -> bool:
        """`data` is behind us; whether it ended with the head of a message without a body."""
        self._seam = data[-3:] if len(data) >= 3 else (self._seam + data)[-3:]
        return data.endswith(_EMPTY_LINE) and self.payload is EMPTY_PAYLOAD

    def begin_anew(self) -> None:
        """What comes next does not go on from what was."""
        self._seam = b""
