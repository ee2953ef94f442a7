"""Answers that are given again without a run of the pipeline, and what the plugins have to say about that.

Theory of operation. An answer from a fresh stored response is the same for every request with the same head, but for
what passes with time. When the server wants to keep such an answer, it runs the pipeline once more as always, with
`Exchange.wants_replay` set. The plugin that answers puts its `ReplayTerms` on the exchange; every plugin left of it,
and the answerer itself, gives a `ReplayPart` (`Plugin.on_replay`). From then on the server sends the kept bytes for as
long as the terms say, asks each part's `check`, and notes each replay in each part's journal: nothing that a plugin
counts, limits or logs is lost, it is only told in another way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from proxy.storage.node import Use

Subject = TypeVar("Subject")

MOST_NOTES: Final = 128
"""Of a journal. Told of all at once they hold up the event loop for a fifth of a millisecond."""

PASSED_OVER: Final = frozenset({
    "accept", "accept-language", "b3", "cf-connecting-ip", "cf-ipcountry", "cf-ray", "cookie", "dnt", "origin",
    "priority", "referer", "request-id", "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-fetch-dest",
    "sec-fetch-mode", "sec-fetch-site", "sec-fetch-user", "traceparent", "tracestate", "upgrade-insecure-requests",
    "user-agent", "x-amzn-trace-id", "x-b3-parentspanid", "x-b3-sampled", "x-b3-spanid", "x-b3-traceid",
    "x-cloud-trace-context", "x-correlation-id", "x-forwarded-for", "x-request-id", "x-requested-with",
})  # fmt: skip
"""Request fields in which requests for the same answer may differ, unless a plugin heeds them or the answer varies by
them: they say who asks, by which way, and for which trace. Any other field must be equal, to the letter."""

SERVER_MADE: Final = frozenset({
    "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip",
    "x-request-id",
})  # fmt: skip
"""Request fields whose value, as plugins see it, the server makes of more than the request's head."""


class Arrival(Protocol):
    """A request that is answered by replay: its client's connection, and a head that came over it.

    Attributes:
        head: of the connection's newest request. Who was told of an earlier one sets it before reading from it.
        began: when the request came that a `Check` is asked about, in monotonic seconds.
    """

    head: bytes
    began: float

    @property
    def client(self) -> str:
        """The client's address, after the trusted proxies."""
        ...

    def make_id(self) -> str:
        """The request id: the client's if its peer is trusted, else a new one. JSON escapes no character of it."""
        ...

    def field(self, name: bytes) -> str | None:
        """The request field with this lower-case name as it stands in the head, several lines joined by a comma; None
        without one. A field of `SERVER_MADE` says something else to plugins: only the pipeline knows what.
        """
        ...


Check: TypeAlias = Callable[[Arrival], str | None]
"""Whether this request may be answered by replay: None if not, then the pipeline decides. Otherwise the value of the
part's `field` for this response."""

Note: TypeAlias = tuple[Subject, Arrival, bytes, float, float]
"""One replay: of what, whose, the request's head, the moment in wall seconds, and the duration in seconds."""


class Journal(Generic[Subject]):
    """Replays that a plugin takes note of one by one, in place of `on_complete`.

    They are put down at once and told of many at a time: code that runs a hundred times in a row finds itself and what
    it needs in the processor's caches.

    Args:
        tell: takes notes, the oldest first.

    Attributes:
        notes: those not told of. Whoever adds the `MOST_NOTES`th calls `settle`, as does the plugin before it takes
            note of an exchange that was no replay.
        on_failure: hears what `tell` raised; set by the pipeline.
    """

    __slots__ = ("_tell", "notes", "on_failure")

    def __init__(self, tell: Callable[[Sequence[Note[Subject]]], None]) -> None:
        self._tell = tell
        self.on_failure: Callable[[Exception], None] | None = None
        self.notes: list[Note[Subject]] = []

    def settle(self) -> None:
        """Tell of what was noted."""
        if self.notes:
            notes, self.notes = self.notes, []
            try:
                self._tell(notes)
            except Exception as error:
                if self.on_failure is None:
                    raise
                self.on_failure(error)


Tally: TypeAlias = Callable[[Sequence[float], int], None]
"""Takes note of several replays: their durations in seconds, in no order, and the bytes of their bodies in all. Soon
after the first of them, and before anybody reads what is counted. For whoever needs to know nothing of the request: it
costs a tenth of a note. Answers whose tallies are equal (one method of one object, say) are told of together: let
there be few."""


@dataclass(frozen=True, slots=True)
class ReplayPart:
    """What one plugin does at each replay of one answer.

    Attributes:
        check: see `Check`; None: always yes.
        field: the response field whose value `check` gives; empty when there is none. It was given at the first run by
            way of `Exchange.response_fields`.
        journal: see `Journal`, and what stands in its notes of replays of this answer.
        tally: see `Tally`.
    """

    check: Check | None = None
    field: str = ""
    journal: tuple[Journal[Any], object] | None = None
    tally: Tally | None = None


class ReplayTerms(Protocol):
    """For how long an answer may be given again, and what of it changes with time.

    Attributes:
        on_void: called when the stored response behind the answer is gone or another; set by who keeps the answer.
    """

    on_void: Callable[[], None] | None

    @property
    def uses(self) -> Sequence[Use]:
        """The stored records that are used at each replay."""
        ...

    def keeps(self, body: bytes) -> bool:
        """Whether the store keeps this very object anyhow."""
        ...

    @property
    def is_void(self) -> bool:
        """Whether that has happened."""
        ...

    def fields(self, now: float) -> tuple[Sequence[tuple[str, str]], float] | None:
        """The response fields that change with time, at `now` (wall seconds), and until when they are right.

        Returns:
            None: the answer may not be given again, now or later.
        """
        ...
