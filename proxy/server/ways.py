"""What is answered past the pipeline, and is no kept reply: by a known way to the upstream, or from the second tier."""

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from proxy.clock import Clock
from proxy.pipeline.exchange import Exchange
from proxy.pipeline.passage import PassagePart
from proxy.server.application import Application
from proxy.server.fast_lane import FastLane
from proxy.server.forwarding import Forwarding
from proxy.server.heads import Caller, Scissors
from proxy.server.outline import Outline, outline_of
from proxy.server.passages import Passages
from proxy.server.recalls import Recalls
from proxy.server.under_way import Client, Sent, UnderWay

_log = structlog.get_logger("server")

REMEMBERED_OUTLINES: Final = 8_192
"""Of how many outlines it is known that they were seen once. Then all are forgotten."""


class Ways:
    """Those of one listener.

    Args:
        lane: tells heads apart.
        forwarding: what the upstream is told of the client.
        abandoned: takes note of a request whose client left: an exchange like it, its id, and when it came (monotonic
            seconds).
        max_bytes: what may be remembered.
    """

    __slots__ = ("_lane", "_newest", "_seen", "_uncut", "passages", "recalls")

    def __init__(
        self,
        lane: FastLane,
        clock: Clock,
        forwarding: Forwarding,
        application: Application,
        *,
        abandoned: Callable[[Exchange, str, float], None],
        max_bytes: int,
    ) -> None:
        self._lane = lane
        self._uncut = Scissors(())  # of heads that were cut already
        self._newest: tuple[bytes, Outline | None] = b"", None  # the head that came last, which may come again
        self._seen: set[int] = set()  # hashes of outlines: one taken for another is only learnt a little early
        self.passages = Passages(lane, clock, forwarding, application, abandoned, max_bytes=max_bytes)
        self.recalls = Recalls(lane, clock, application, abandoned)

    def __len__(self) -> int:
        """How many requests are under way."""
        return len(self.passages.under_way) + len(self.recalls.waiting)

    def stats(self) -> dict[str, int]:
        """What is known, and what went past the pipeline."""
        return {
            "passages": len(self.passages),
            "passed": self.passages.passed,
            "recalled": self.recalls.recalled,
        }

    def answer(self, head: bytes, caller: Caller, client: Client) -> Sent | UnderWay | None:
        """The response to a request with this head, or what will see to it. None: neither, and nothing has happened.

        Args:
            head: what arrived, at a message boundary.
        """
        newest, outline = self._newest
        if head != newest:
            lane = self._lane
            outline = outline_of(*lane.scissors.cut(head)) if len(head) <= lane.max_head_bytes else None
            self._newest = head, outline
        if outline is None:
            return None
        try:
            recalled = self.recalls.answer(outline, head, caller, client)
            return self.passages.begin(outline, head, caller, client) if recalled is None else recalled
        except Exception as error:  # noqa: BLE001 — our mistake, whatever it is: the pipeline answers without this
            _log.error("a request could not be answered past the pipeline", exc_info=error)
            return None

    def wants(self, head: bytes) -> bytes:
        """The key under which it is to be learnt how a request like this one is answered; empty: it is not.

        Args:
            head: what arrived, at a message boundary, and was not answered here.
        """
        heeded = self._lane.learnable(head)
        outline = outline_of(*self._uncut.cut(heeded)) if heeded else None
        if outline is None:
            return b""
        digest = hash(outline.rest)
        if digest in self._seen:
            return outline.head
        if len(self._seen) >= REMEMBERED_OUTLINES:
            self._seen.clear()
        self._seen.add(digest)
        return b""

    def learn(
        self, key: bytes, caller: Caller, exchange: Exchange, parts: Sequence[PassagePart], head: bytes, body: bytes
    ) -> None:
        """Know how requests like that of `exchange`, which has just ended, are answered.

        Args:
            key: from `wants`.
            caller: `caller.head` is the request's.
            parts: of the plugins.
            head, body: as the client got them.
        """
        outline = outline_of(*self._uncut.cut(key))
        if outline is None or outline.target != exchange.request.target:
            return
        if exchange.passage is not None:
            self.passages.learn(outline, caller, exchange, parts, head, body)
        elif exchange.recall is not None:
            self.recalls.learn(outline, caller, exchange, parts, head, body)

    def hand_over(self) -> None:
        """Let the pipeline go on with everything that is under way."""
        requests: list[UnderWay] = [*self.passages.under_way, *self.recalls.waiting]
        for request in requests:
            request.hand_over()

    def reset(self) -> None:
        """Forget everything. The pipeline is another."""
        self._newest = b"", None
        self._seen.clear()
        self.passages.reset()
        self.recalls.reset()
