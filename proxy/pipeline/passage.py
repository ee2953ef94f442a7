"""Requests that go on to the upstream by a way that is known, and what the plugins have to say about that.

Theory of operation. Some requests nothing can answer but the upstream, and nothing becomes of the answer but that this
one client gets it: what may not be stored, and what a route does not let the cache see. For equal requests the pipeline
then does the same again and again, and for equal heads of responses, too. When the server wants to know such a way, it
runs the pipeline once more as always, with a `Transcript` on the exchange. The cache puts its `PassageTerms` on the
exchange, the upstream writes down what went out and what came back, and every plugin gives a `PassagePart`
(`Plugin.on_passage`). From then on the server sends the upstream the bytes that it would be sent, and the client the
bytes that it would get, as long as the terms hold and each part's check says so. What is not as it was (another head of
a response, an upstream that is slow, or closes) is handed over to the pipeline where it stands: the request is not sent
again, the pipeline takes its connection over.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple, Protocol, TypeAlias

from proxy.pipeline.replay import Arrival, Tally

OWN_FIELDS: Final = frozenset({
    "content-length", "date", "etag", "last-modified", "request-id", "server-timing", "set-cookie", "x-amzn-requestid",
    "x-amzn-trace-id", "x-correlation-id", "x-request-id", "x-response-time", "x-runtime",
})  # fmt: skip
"""Response fields in whose values responses may differ that take the same way: they are passed on as they come."""

MOST_BYTES: Final = 65_536
"""Of a body that goes such a way: a longer one is streamed."""

PATIENCE_SECONDS: Final = 1.0
"""So long a request is left alone on its way, at most. What takes longer is for the pipeline: what it costs the
processor does not matter then, and time-outs, breakers and logs know slow requests."""

_MOST_HEAD_BYTES: Final = 16_384


class Passed(NamedTuple):
    """A request that was answered past the pipeline.

    Attributes:
        arrival: whose, for who reads its head from it.
        head: as it came.
        target: of the request.
        request_id: as the upstream was told, if it was asked.
        seconds: it took; the upstream alone took hardly less.
        bytes_sent: of the body.
    """

    arrival: Arrival
    head: bytes
    target: str
    request_id: str
    seconds: float
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class PassagePart:
    """What one plugin does about each request that goes the way of one before it.

    Attributes:
        check: whether it may still go that way; None: always.
        tally: see `Tally`. Request's head to response's last byte takes hardly longer than from the sending of
            the upstream request to its response, which is what the durations are.
        note: takes note of each such request when it is answered; for who has to know more of it than a tally.
        least_bytes, most_bytes: the lengths of bodies with which it would do the same again.
        any_target: it would do the same for any other target on the same route.
    """

    check: Callable[[], bool] | None = None
    tally: Tally | None = None
    note: Callable[[Passed], None] | None = None
    least_bytes: int = 0
    most_bytes: float = inf
    any_target: bool = False


OwnValues: TypeAlias = Sequence[tuple[str, str]]
"""Names and values of the own fields of a response. Responses with equal heads mostly have the same object."""


class Ticket(Protocol):
    """Leave of the cache for one request to go past it. Used once: `keep`, `give_back`, or taken over by the pipeline.

    Attributes:
        way: how it goes; responses are known by it, too.
        outlives_client: the response is wanted even if the client leaves.
    """

    way: Hashable
    outlives_client: bool

    def keep(self, pattern: object, own: OwnValues, body: bytes) -> Sequence[str] | None:
        """The response is here: do what the cache does with it.

        Args:
            pattern: see `PassageTerms`, of the response that it is like.
            own: of its own fields.

        Returns:
            The values of the fields that are made anew each time. None: the pipeline has to see it, nothing was done.
        """
        ...

    def give_back(self) -> None:
        """Nothing comes of it. Does nothing if somebody took it over."""
        ...

    def go_on(self, transcript: "Transcript") -> None:
        """The client has left, and the pipeline has to see the response: let it."""
        ...


class PassageTerms(Protocol):
    """Which requests go past the cache that are like one that did, but for their targets."""

    @property
    def way(self) -> Hashable:
        """How that one went."""
        ...

    @property
    def pattern(self) -> object:
        """What `Ticket.keep` needs to know of its response."""
        ...

    @property
    def made(self) -> Sequence[str]:
        """The names of the fields of responses that are made anew each time."""
        ...

    def enter(self, target: str) -> Ticket | None:
        """Leave for such a request for `target` to go past the cache now; None: the cache has to see it."""
        ...


class Tap(Protocol):
    """Hears what comes from the upstream in answer to one request, before it is parsed."""

    def arrived(self, data: bytes) -> bool:
        """Whether nobody else need see `data`."""
        ...

    def lost(self) -> None:
        """The connection ends."""
        ...


class Carrier(Protocol):
    """A connection to the upstream on which one request is under way.

    Attributes:
        tap: hears of the response; None: it is parsed, as always.
    """

    tap: Tap | None

    def data_received(self, data: bytes) -> None:
        """Parse `data`, unless the tap takes it."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class Line(Protocol):
    """Takes requests to the upstream that are bytes already."""

    patience_seconds: float
    """How long to wait for a response before the pipeline takes over."""

    def begin(self, request: bytes, tap: Tap) -> Carrier | None:
        """Send `request` on a connection that is idle; None: there is none, and nothing was done.

        Args:
            request: whole, without a body, and safe to be sent again.
        """
        ...

    def finish(self, carrier: Carrier, seconds: float) -> None:
        """The whole response has been heard, after so many `seconds`; the connection is good for another."""
        ...

    def drop(self, carrier: Carrier) -> None:
        """Nobody waits for the response any more."""
        ...


def ask_alike(one: bytes, other: bytes) -> bool:
    """Whether two heads of requests differ in nothing but the order of their fields, the case of their names, and white
    space around their values (RFC 9110 §5.1, RFC 9112 §5).
    """
    return one == other or _lines(one) == _lines(other)


def _lines(head: bytes) -> list[bytes]:
    first, *fields = head.split(b"\r\n")
    parts = [line.partition(b":") for line in fields]
    return [first, *sorted(name.lower() + colon + value.strip(b" \t") for name, colon, value in parts)]


@dataclass(slots=True, eq=False)
class Transcript:
    """One request to the upstream and its response, to the letter. A `Tap` that only listens.

    Attributes:
        sent: the request.
        received: the response as far as it is here; more than the limits here allow is of no use to anybody.
        line: the way it went.
        reusable: its connection could be used again afterwards.
        begun: the connection, for a request that is under way already: nothing is sent then, it is taken over.
        began, request_id, ticket: of such a request: monotonic seconds when it came, what the upstream was told, and
            the cache's leave.
    """

    sent: bytes = b""
    received: bytes = b""
    line: Line | None = None
    reusable: bool = False
    begun: Carrier | None = None
    began: float = 0.0
    request_id: str = ""
    ticket: Ticket | None = None

    def arrived(self, data: bytes) -> bool:
        """See `Tap.arrived`."""
        if len(self.received) <= _MOST_HEAD_BYTES + MOST_BYTES:
            self.received += data
        return False

    def lost(self) -> None:
        """See `Tap.lost`."""

    def drop(self) -> None:
        """Nobody takes over what is under way."""
        if self.ticket is not None:
            self.ticket.give_back()
        carrier, self.begun = self.begun, None
        if carrier is not None and self.line is not None:
            self.line.drop(carrier)
