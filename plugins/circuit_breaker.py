"""Circuit breaker: spares an upstream that fails, and its clients the wait.

Stands right of the cache, last before the upstream: the cache hears of its refusal as of any upstream error, and
answers with what it has, stale as it may be. Without that the client gets a 503 with `Retry-After`.

What counts: a status from the list, a time-out, a connection refused or broken, an unreadable response, and a response
whose head took too long. What does not: the client's own faults, a full connection pool, and a client that leaves;
unless it had waited so long that the call was slow, or an upstream that hangs would never be found out by clients
less patient than the time-outs here.
"""

import math
import random
from typing import Annotated, ClassVar, Final, Literal

import structlog
from pydantic import Field
from typing_extensions import override

from proxy.errors import (
    CircuitOpenError,
    OverloadedError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamTimeoutError,
)
from proxy.http.message import Response
from proxy.pipeline.exchange import Exchange, ExchangeKey, Outcome, Stats
from proxy.pipeline.passage import PATIENCE_SECONDS, PassagePart
from proxy.pipeline.plugin import Plugin, PluginSettings, Services
from proxy.upstream.circuit import Circuit, CircuitRules, CircuitState, Permit

_log = structlog.get_logger("circuit_breaker")


class CircuitBreakerSettings(PluginSettings):
    """Settings of `[plugins.circuit_breaker]`. The names that `CircuitRules` has too mean the same there.

    Attributes:
        scope: `route`: each route has a circuit; `upstream`: one for all routes with these settings.
        failure_statuses: response statuses that count as failures.
        slow_seconds: time to the response head from which a response counts as a failure; 0: never. Routes that hold
            requests back on purpose (long polls) need more than they wait.
    """

    scope: Literal["upstream", "route"] = "route"
    failure_statuses: frozenset[Annotated[int, Field(ge=400, le=599)]] = frozenset({500, 502, 503, 504})
    slow_seconds: float = Field(default=30.0, ge=0)
    consecutive_failures: int = Field(default=10, ge=0)
    failure_ratio: float = Field(default=0.5, gt=0, le=1)
    window_seconds: float = Field(default=30.0, gt=0, le=3600)
    minimum_calls: int = Field(default=20, ge=1)
    open_seconds: float = Field(default=10.0, gt=0)
    open_growth: float = Field(default=2.0, ge=1, le=10)
    max_open_seconds: float = Field(default=120.0, gt=0)
    jitter: float = Field(default=0.1, ge=0, le=1)
    probes: int = Field(default=1, ge=1)
    successes_to_close: int = Field(default=2, ge=1)

    def rules(self) -> CircuitRules:
        """What a circuit is told."""
        return CircuitRules(
            consecutive_failures=self.consecutive_failures,
            failure_ratio=self.failure_ratio,
            window_seconds=self.window_seconds,
            minimum_calls=self.minimum_calls,
            open_seconds=self.open_seconds,
            open_growth=self.open_growth,
            max_open_seconds=self.max_open_seconds,
            jitter=self.jitter,
            probes=self.probes,
            successes_to_close=self.successes_to_close,
        )


class CircuitBreaker(Plugin[CircuitBreakerSettings]):
    """Asks a circuit before each request goes to the upstream, and tells it what became of it."""

    name: ClassVar[str] = "circuit_breaker"
    settings_type: ClassVar[type[PluginSettings]] = CircuitBreakerSettings

    def __init__(
        self, settings: CircuitBreakerSettings, services: Services, *, rng: random.Random | None = None
    ) -> None:
        super().__init__(settings, services)
        self._rng = rng or random.Random()  # noqa: S311 — it spreads retries, it guards nothing
        self._permit: Final[ExchangeKey[Permit]] = ExchangeKey("circuit_breaker.permit")
        # Read for each request; an attribute of a pydantic model takes its time.
        self._monotonic = services.clock.monotonic
        self._by_route = settings.scope == "route"
        self._failure_statuses = settings.failure_statuses
        self._slow_seconds = settings.slow_seconds or math.inf
        self._circuits: dict[str, Circuit] = {}
        self._closed = False
        metrics = services.metrics
        self._states = metrics.level(
            "sidecache_circuits", "Circuits by state: closed, half-open or open", ("circuit", "state")
        )
        self._transitions = metrics.counter(
            "sidecache_circuit_transitions", "Times a circuit came into a state", ("circuit", "state")
        )
        self._refused = metrics.counter("sidecache_circuit_refused", "Requests not let through", ("circuit",))
        self._failures = metrics.counter(
            "sidecache_circuit_failures", "Calls counted as failures, by kind", ("circuit", "kind")
        )

    @override
    async def on_request(self, exchange: Exchange) -> None:
        name = exchange.route.name if self._by_route else "upstream"
        circuit = self._circuits.get(name) or self._new_circuit(name)
        if circuit.state is not CircuitState.CLOSED and exchange.under_way:
            return  # it was let through before the circuit moved, and says nothing of the state that it is in now
        try:
            permit = circuit.admit()
        except CircuitOpenError:
            self._refused.labels(name).value += 1
            exchange.notes["circuit"] = circuit.state.value
            raise
        exchange.put(self._permit, permit)

    @override
    async def on_response(self, exchange: Exchange, response: Response) -> Response:
        if (permit := exchange.take(self._permit)) is not None:
            if response.status in self._failure_statuses:
                self._failed(permit, "status")
            elif self._is_slow(permit):
                self._failed(permit, "slow")
            else:
                permit.circuit.succeed(permit)
        return response

    @override
    async def on_error(self, exchange: Exchange, error: UpstreamError) -> None:
        if (permit := exchange.take(self._permit)) is None:
            return
        match error:
            case OverloadedError() | CircuitOpenError():
                permit.circuit.abandon(permit)  # nobody asked the upstream
            case UpstreamTimeoutError():
                self._failed(permit, "timeout")
            case UpstreamConnectError():
                self._failed(permit, "connect")
            case _:
                self._failed(permit, "protocol")

    @override
    def on_complete(self, exchange: Exchange, outcome: Outcome) -> None:
        permit = exchange.take(self._permit)
        if permit is None or permit.settled:
            return
        if self._is_slow(permit):
            self._failed(permit, "slow")
        else:
            permit.circuit.abandon(permit)

    @override
    def on_passage(self, exchange: Exchange, outcome: Outcome) -> PassagePart | None:
        permit = exchange.take(self._permit)
        if permit is None or outcome.status in self._failure_statuses or self._slow_seconds <= PATIENCE_SECONDS:
            return None
        return PassagePart(check=permit.circuit.is_untroubled, tally=permit.circuit.tally, any_target=True)

    @property
    @override
    def heeded_fields(self) -> frozenset[str]:
        return frozenset()

    @override
    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            for name, circuit in self._circuits.items():
                self._states.labels(name, circuit.state.value).value -= 1

    @override
    def stats(self) -> Stats:
        return {"scope": self.settings.scope, "circuits": {n: c.snapshot() for n, c in self._circuits.items()}}

    def _new_circuit(self, name: str) -> Circuit:
        circuit = Circuit(name, self.settings.rules(), self.services.clock, self._rng, self._moved)
        self._circuits[name] = circuit
        if not self._closed:
            self._states.labels(name, circuit.state.value).value += 1
        return circuit

    def _is_slow(self, permit: Permit) -> bool:
        return self._monotonic() - permit.started >= self._slow_seconds

    def _failed(self, permit: Permit, kind: str) -> None:
        self._failures.labels(permit.circuit.name, kind).value += 1
        permit.circuit.fail(permit)

    def _moved(self, circuit: Circuit, before: CircuitState) -> None:
        name = circuit.name
        self._transitions.labels(name, circuit.state.value).value += 1
        if not self._closed:  # its circuits have been taken off the gauge
            self._states.labels(name, before.value).value -= 1
            self._states.labels(name, circuit.state.value).value += 1
        if circuit.state is CircuitState.OPEN:
            _log.warning("circuit opened", circuit=name, before=before.value, retry_after_seconds=circuit.retry_after())
        else:
            _log.info("circuit moved", circuit=name, before=before.value, state=circuit.state.value)
