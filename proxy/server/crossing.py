"""One request on a way that is known, from the client's connection to the upstream's and back."""

from typing import TYPE_CHECKING, Final

from proxy.pipeline.passage import Carrier, Transcript
from proxy.server.passage import More, Passage

if TYPE_CHECKING:
    from proxy.server.passages import Passages
    from proxy.server.protocol import Connection


class Crossing:
    """See the module. A `Tap`. It ends once: answered, handed over to the pipeline, or given up.

    Args:
        client: who asks.
        head: of the request, as it came.
        request_id: as the upstream was told.
        sent: what goes to the upstream.
        began: monotonic seconds.

    Attributes:
        key: under which its response may be learnt from; empty: it may not.
    """

    __slots__ = ("_book", "_carrier", "_client", "_received", "_sent", "began", "head", "key", "passage", "request_id")

    def __init__(
        self,
        book: "Passages",
        passage: Passage,
        client: "Connection",
        head: bytes,
        request_id: str,
        sent: bytes,
        began: float,
    ) -> None:
        self._book: Final = book
        self._client: Final = client
        self._sent: Final = sent
        self._carrier: Carrier | None = None
        self._received = b""
        self.passage: Final = passage
        self.key = passage.key
        self.head: Final = head
        self.request_id: Final = request_id
        self.began: Final = began

    def begin(self) -> bool:
        """Send the request; False: there is no connection for it, and nothing was done."""
        self._carrier = self.passage.line.begin(self._sent, self)
        return self._carrier is not None

    def arrived(self, data: bytes) -> bool:
        """See `Tap.arrived`."""
        if self._received:
            data = self._received + data
        answer = self.passage.answer(data)
        if answer is More.MORE:
            self._received = data
            return True
        if answer is None:
            self._received = data
            self.hand_over()
            return True
        carrier = self._end()
        seconds = self._book.settle(self, answer)
        self.passage.line.finish(carrier, seconds)
        self._client.crossed(answer.wire)
        return True

    def lost(self) -> None:
        """See `Tap.lost`."""
        self.hand_over()

    def hand_over(self) -> None:
        """Let the pipeline go on from here."""
        carrier = self._end()
        transcript = Transcript(
            sent=self._sent,
            line=self.passage.line,
            begun=carrier,
            began=self.began,
            request_id=self.request_id,
        )
        self._book.settle_all()
        carrier.tap = transcript  # the kind of this response may be learnt
        if self._received:
            carrier.data_received(self._received)
        self._client.taken_over(self, transcript)

    def give_up(self) -> None:
        """The client has left."""
        self.passage.line.drop(self._end())
        self._book.abandoned(self)

    def _end(self) -> Carrier:
        carrier = self._carrier
        assert carrier is not None
        carrier.tap = None
        self._book.forget(self)
        return carrier
