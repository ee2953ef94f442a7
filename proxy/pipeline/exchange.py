"""One request and its answer on their way through the pipeline: the only mutable per-request object."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from proxy.errors import ProxyError
from proxy.http.channel import Tunnel
from proxy.http.message import Headers, Request, Response
from proxy.pipeline.passage import PassagePart, PassageTerms, Transcript
from proxy.pipeline.recall import RecallTerms
from proxy.pipeline.replay import ReplayTerms
from proxy.pipeline.routes import Route
from proxy.policy.reasons import Reason
from proxy.values import IdentityEnum, value

T = TypeVar("T")

InformationalSender: TypeAlias = Callable[[int, Headers], Awaitable[None]]
"""Passes a 1xx response on to the client."""


class CacheResult(IdentityEnum):
    """What became of the request at the cache; the value is a metric label and a log value."""

    NONE = "none"  # no cache on the route, or answered before it
    BYPASS = "bypass"
    HIT = "hit"
    STALE = "stale"
    REVALIDATED = "revalidated"
    MISS = "miss"

    @property
    def from_cache(self) -> bool:
        """Whether a stored response was sent."""
        return self in (CacheResult.HIT, CacheResult.STALE, CacheResult.REVALIDATED)


@value
class CacheReport:
    """The cache's account of one exchange: feeds log line, metric labels and Cache-Status.

    Attributes:
        fwd: why the request went forward, in the words of RFC 9211 §2.2; empty on a hit.
        tier: which tier answered, `l1` or `l2`; empty when none did.
        ttl: seconds of freshness left, negative when stale; None when unknown.
    """

    result: CacheResult = CacheResult.NONE
    reason: Reason | None = None
    fwd: str = ""
    fwd_status: int | None = None
    stored: bool = False
    collapsed: bool = False
    ttl: float | None = None
    tier: str = ""
    key: str = ""

    def with_ttl(self, ttl: float) -> "CacheReport":
        """The same with so many seconds of freshness left."""
        return replace(self, ttl=ttl)

    def with_status(self, fwd_status: int) -> "CacheReport":
        """The same of a request that the next hop answered with `fwd_status`."""
        return CacheReport(
            self.result, self.reason, self.fwd, fwd_status, self.stored, self.collapsed, self.ttl, self.tier, self.key
        )


NO_REPORT = CacheReport()


class DerivedForms(Protocol):
    """The derived forms of the stored response that answers this exchange."""

    def get(self, name: str) -> bytes | None:
        """The form called `name`, if it was computed before."""
        ...

    async def derive(self, name: str, compute: Callable[[bytes], Awaitable[bytes]]) -> bytes:
        """The form called `name`; `compute` makes it from the stored body, once for all who ask at the same time."""
        ...


class Tail(Protocol):
    """What stands right of a plugin: the rest of the route's pipeline, and the upstream."""

    async def run(self, exchange: "Exchange") -> Response:
        """Send `exchange.request` on and return the response, its body perhaps still arriving.

        `exchange` is a detached one (`Exchange.detach`): what a plugin sends on itself may outlive its client.

        Raises:
            ProxyError: there is no response.
        """
        ...

    def complete(self, exchange: "Exchange", outcome: "Outcome") -> None:
        """Tell the plugins that saw `exchange` how it ended. Owed, once, for every `run`, failed or not."""
        ...

    def passage_parts(self, exchange: "Exchange", outcome: "Outcome") -> "list[PassagePart] | None":
        """What the plugins that saw `exchange` do when a request goes its way; None: one of them has to see each."""
        ...


class ExchangeKey(Generic[T]):
    """A typed name for what a plugin keeps on an exchange between its hooks."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(slots=True, eq=False)
class Exchange:
    """One request on its way.

    Attributes:
        request: as it goes on; a plugin's `on_request` may put another in its place.
        route: the route that matched.
        id: request id, taken from the client's `X-Request-ID` if trusted, else made here.
        started: monotonic seconds.
        cache: what the cache did.
        forms: set by the cache when a stored, complete response answers; None otherwise.
        answered_by: name of the plugin that answered, or `upstream`, or `error`.
        upstream_seconds: from the start of the upstream request to its response head; None if there was none.
        tail: while a plugin's `on_request` runs, what stands right of it.
        informational: passes 1xx responses to the client; None where nobody waits.
        switch_to: the protocol that the client wants to switch to (RFC 9110 §7.8); empty for other requests.
        tunnel: the upstream's side after the switch.
        response_fields: header fields added to whatever response goes out, an error's too.
        error: what ended the exchange with an error response.
        reached: how many plugins' turns came.
        wants_replay: the server would keep the answer, to give it again; see `proxy.pipeline.replay`.
        replay: set by the plugin that answers: under which terms that may be done; None: it may not.
        passage: set by the cache: how long requests like this one go past it; None: it has to see them.
        beyond: set with `passage` by who sent the request on by an exchange of its own: that, and its tail.
        recall: set by the cache: how answers like this one are found in its second tier; None: they are not.
        transcript: what goes to the upstream and comes back, if somebody wants to know it to the letter.
        pipeline: the pipeline that it goes through; a reload may have put another in its place meanwhile.
        notes: what plugins want in the log line of this exchange.
    """

    request: Request
    route: Route
    id: str
    started: float
    tail: Tail | None = None
    informational: InformationalSender | None = None
    cache: CacheReport = NO_REPORT
    forms: DerivedForms | None = None
    answered_by: str = ""
    upstream_seconds: float | None = None
    switch_to: str = ""
    tunnel: Tunnel | None = None
    response_fields: list[tuple[str, str]] = field(default_factory=list)
    error: ProxyError | None = None
    reached: int = 0
    wants_replay: bool = False
    replay: ReplayTerms | None = None
    passage: PassageTerms | None = None
    beyond: "tuple[Exchange, Tail] | None" = None
    recall: RecallTerms | None = None
    transcript: Transcript | None = None
    pipeline: object = None
    notes: dict[str, object] = field(default_factory=dict)
    _state: dict[ExchangeKey[Any], Any] = field(default_factory=dict, repr=False)

    def detach(self, request: Request) -> "Exchange":
        """An exchange for `request` on the same route that no client waits for."""
        return Exchange(request=request, route=self.route, id=self.id, started=self.started)

    def outline(self) -> "Exchange":
        """What exchanges like this one have in common: neither for whom it is, nor what was said to the upstream."""
        return Exchange(
            request=self.request,
            route=self.route,
            id=self.id,
            started=self.started,
            cache=self.cache,
            reached=self.reached,
            pipeline=self.pipeline,
        )

    @property
    def under_way(self) -> bool:
        """Whether its request has been sent to the upstream already: see `proxy.pipeline.passage`."""
        return self.transcript is not None and self.transcript.begun is not None

    def put(self, key: ExchangeKey[T], value: T) -> None:
        """Keep `value` for a later hook."""
        self._state[key] = value

    def take(self, key: ExchangeKey[T]) -> T | None:
        """What was kept under `key`."""
        found: T | None = self._state.get(key)  # a cast takes three times as long as the look-up
        return found


@value
class Outcome:
    """How an exchange ended.

    Attributes:
        status: sent to the client, or that would have been; 499 when the client left before the response began.
        bytes_sent: of the body, as sent.
        duration: seconds from the request's head to the response's last byte.
        first_byte: seconds to the response's head; None if none was sent.
        error: what went wrong, if anything.
        aborted: the client left, or the response was cut off.
    """

    status: int
    bytes_sent: int
    duration: float
    first_byte: float | None = None
    error: ProxyError | None = None
    aborted: bool = False


Stats: TypeAlias = Mapping[str, object]
