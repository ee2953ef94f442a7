"""One request on a way that is known, from the client's connection to the upstream's and back."""

from typing import TYPE_CHECKING, Final

import structlog

from proxy.pipeline.passage import Carrier, Ticket, Transcript
from proxy.server.heads import Caller
from proxy.server.outline import Outline
from proxy.server.passage import Arriving, Passage
from proxy.server.under_way import Client

if TYPE_CHECKING:
    from proxy.server.passages import Passages

_log = structlog.get_logger("server")


class Crossing:
    """See the module. A `Tap`, and an `UnderWay`.

    Args:
        ticket: the cache's leave.
        client: who asks.
        caller: its connection's peer.
        outline, head: of the request, as it came.
        request_id: as the upstream was told.
        sent: what goes to the upstream; whoever makes this sends it.
        began: monotonic seconds.

    Attributes:
        outline: None: nothing may be learnt from its response.
        carrier: on which it is under way.
    """

    __slots__ = (
        "_arriving", "_book", "_client", "_received", "_sent", "_ticket", "began", "caller", "carrier", "head",
        "outline", "passage", "request_id", "target",
    )  # fmt: skip

    def __init__(
        self,
        book: "Passages",
        passage: Passage,
        ticket: Ticket,
        client: Client,
        caller: Caller,
        outline: Outline,
        head: bytes,
        request_id: str,
        sent: bytes,
        began: float,
    ) -> None:
        self._book: Final = book
        self._ticket: Final = ticket
        self._client: Client | None = client
        self.caller: Final = caller
        self.outline: Outline | None = outline
        self.target: Final = outline.target
        self._sent: Final = sent
        self.carrier: Carrier | None = None
        self._received = b""
        self._arriving: Arriving | None = None
        self.passage: Final = passage
        self.head: Final = head
        self.request_id: Final = request_id
        self.began: Final = began

    def arrived(self, data: bytes) -> bool:
        """See `Tap.arrived`."""
        if self._received:
            data = self._received + data
        arriving = self._arriving or self.passage.recognise(data, self._ticket.way)
        if arriving is None or len(data) - arriving.end > arriving.body_bytes:
            self._received = data
            self.hand_over()
        elif len(data) - arriving.end < arriving.body_bytes:
            self._received = data
            self._arriving = arriving
        else:
            self._answer(arriving, data)
        return True

    def _answer(self, arriving: Arriving, data: bytes) -> None:
        try:
            wire = arriving.answer(data, self._ticket)
        except Exception as error:  # noqa: BLE001 — our mistake, whatever it is: the pipeline does without what is here
            _log.error("a response could not go its known way", exc_info=error)
            wire = None
        if wire is None:
            self.passage.stranger()
            self._received = data
            self.hand_over()
            return
        carrier = self._end()
        seconds = self._book.monotonic() - self.began
        self.passage.line.finish(carrier, seconds)
        if self._client is not None:
            self._client.answered(wire)  # first: whatever a plugin makes of the note, the client has its answer
            self._book.note(self, arriving, seconds)

    def lost(self) -> None:
        """See `Tap.lost`."""
        self.hand_over()

    def hand_over(self) -> None:
        """See `UnderWay.hand_over`: the pipeline goes on from here, the request is not sent again."""
        carrier = self._end()
        transcript = Transcript(
            sent=self._sent,
            line=self.passage.line,
            begun=carrier,
            began=self.began,
            request_id=self.request_id,
            ticket=self._ticket,
        )
        self._book.settle_all()
        carrier.tap = transcript  # the kind of this response may be learnt
        if self._received:
            carrier.data_received(self._received)
        if self._client is not None:
            key = self.outline.head if self.outline is not None else b""
            self._client.taken_over(self.head, key, transcript)
        else:
            self._ticket.go_on(transcript)

    def give_up(self) -> None:
        """See `UnderWay.give_up`."""
        if self._ticket.outlives_client:
            self._client = None
        else:
            self.passage.line.drop(self._end())
            self._ticket.give_back()
        self._book.abandoned(self.passage.alike, self.request_id, self.began)

    def _end(self) -> Carrier:
        carrier = self.carrier
        assert carrier is not None
        carrier.tap = None
        self._book.forget(self)
        return carrier
