"""The circuit breaker plugin in a pipeline."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from plugins.cache import Cache, CacheSettings
from plugins.circuit_breaker import CircuitBreaker, CircuitBreakerSettings
from proxy.errors import (
    ClientError,
    OverloadedError,
    ProxyError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamIncompleteError,
    UpstreamTimeoutError,
)
from proxy.http.message import Request, Response
from proxy.metrics.registry import Counter, Family, Level, Registry
from proxy.pipeline.exchange import CacheResult
from proxy.pipeline.plugin import Services
from proxy.pipeline.routes import Route
from proxy.storage.memory import MemoryStore
from proxy.storage.memory_log import MemoryLog
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from tests.support.clock import FakeClock
from tests.support.plugin_harness import PluginHarness, harness, request, response

FAST: dict[str, Any] = {
    "consecutive_failures": 3, "minimum_calls": 1000, "open_seconds": 10, "jitter": 0, "successes_to_close": 1,
}  # fmt: skip


def families(metrics: Registry) -> list[Family[Counter] | Family[Level]]:
    return [*metrics.counters(), *metrics.levels()]


class Upstream:
    """Answers with what it is told to; a hook may run before the answer."""

    def __init__(self) -> None:
        self.answer: Response | ProxyError = response(200)
        self.before: Callable[[Request], Awaitable[None]] | None = None

    async def __call__(self, asked: Request) -> Response | ProxyError:
        if self.before is not None:
            await self.before(asked)
        return self.answer


class Bench:
    """A breaker on every route before an upstream, in a harness."""

    def __init__(self, upstream: Upstream, driven: PluginHarness) -> None:
        self.upstream = upstream
        self.harness = driven
        (plugin,) = driven.pipeline.plugins
        assert isinstance(plugin, CircuitBreaker)
        self.plugin = plugin

    async def get(self, target: str = "/", answer: Response | ProxyError | None = None) -> int:
        """The status of one GET."""
        self.upstream.answer = response(200) if answer is None else answer
        return (await self.harness.get(target)).status

    async def fail(self, times: int = 3, target: str = "/") -> None:
        for _ in range(times):
            assert await self.get(target, response(503)) == 503

    def state(self, circuit: str = "default") -> object:
        return self.circuit(circuit)["state"]

    def circuit(self, name: str = "default") -> dict[str, Any]:
        circuits: Any = self.plugin.stats()["circuits"]
        found: dict[str, Any] = circuits[name]
        return found

    def metric(self, name: str) -> dict[tuple[str, ...], float]:
        (family,) = [family for family in families(self.harness.services.metrics) if family.name == name]
        return {labels: member.value for labels, member in family.members.items() if member.value}


@asynccontextmanager
async def bench(routes: tuple[Route, ...] = (), **changes: Any) -> AsyncIterator[Bench]:
    def make(services: Services) -> list[CircuitBreaker]:
        settings = CircuitBreakerSettings(**{**FAST, **changes})
        return [CircuitBreaker(settings, services, rng=random.Random(7))]

    upstream = Upstream()
    async with harness(make, upstream, routes=routes) as driven:
        yield Bench(upstream, driven)


async def test_open_circuit_answers_503_with_retry_after_and_does_not_ask_the_upstream() -> None:
    async with bench() as b:
        await b.fail(3)
        asked = len(b.harness.upstream.requests)
        b.harness.clock.advance(2.5)
        refused = await b.harness.get("/")
        assert refused.status == 503
        assert refused.header("Retry-After") == "8"
        assert refused.exchange.notes == {"circuit": "open"}
        assert len(b.harness.upstream.requests) == asked


async def test_circuit_closes_after_a_good_probe() -> None:
    async with bench() as b:
        await b.fail(3)
        b.harness.clock.advance(10)
        assert await b.get() == 200
        assert b.state() == "closed"
        assert await b.get() == 200


@pytest.mark.parametrize(
    "failure",
    [
        response(500),
        response(502),
        response(503),
        response(504),
        UpstreamError("no HTTP"),
        UpstreamConnectError("refused"),
        UpstreamTimeoutError("slow"),
        UpstreamIncompleteError("cut"),
    ],
)
async def test_upstream_faults_open_the_circuit(failure: Response | ProxyError) -> None:
    async with bench() as b:
        for _ in range(3):
            await b.get("/", failure)
        assert b.state() == "open"


@pytest.mark.parametrize(
    "answer", [response(200), response(404), response(429), response(501), ClientError("bad"), OverloadedError("full")]
)
async def test_other_answers_do_not(answer: Response | ProxyError) -> None:
    async with bench() as b:
        for _ in range(20):
            await b.get("/", answer)
        assert b.state() == "closed"


async def test_neutral_errors_do_not_end_a_row_of_failures() -> None:
    async with bench() as b:
        await b.fail(2)
        await b.get("/", OverloadedError("full"))
        await b.get("/", ClientError("bad"))
        await b.fail(1)
        assert b.state() == "open"


async def test_failure_statuses_are_a_setting() -> None:
    async with bench(failure_statuses={429}) as b:
        for _ in range(10):
            await b.get("/", response(500))
        assert b.state() == "closed"
        for _ in range(3):
            await b.get("/", response(429))
        assert b.state() == "open"


async def test_slow_response_head_counts_as_failure() -> None:
    async with bench(slow_seconds=2) as b:
        seconds = 1.9

        async def pause(_: Request) -> None:
            b.harness.clock.advance(seconds)

        b.upstream.before = pause
        for _ in range(5):
            assert await b.get() == 200
        assert b.state() == "closed"
        seconds = 2.0
        for _ in range(3):
            assert await b.get() == 200
        assert b.state() == "open"
        assert b.metric("sidecache_circuit_failures") == {("default", "slow"): 3}


async def test_slow_is_never_when_turned_off() -> None:
    async with bench(slow_seconds=0) as b:

        async def pause(_: Request) -> None:
            b.harness.clock.advance(3600)

        b.upstream.before = pause
        for _ in range(10):
            await b.get()
        assert b.state() == "closed"


class Gate:
    """Holds requests at the upstream until it is opened."""

    def __init__(self, b: Bench, held: int) -> None:
        self.arrived = asyncio.Semaphore(0)
        self.release = asyncio.Event()
        self.held = held
        b.upstream.before = self._wait

    async def _wait(self, _: Request) -> None:
        self.arrived.release()
        await self.release.wait()

    async def full(self) -> None:
        for _ in range(self.held):
            await asyncio.wait_for(self.arrived.acquire(), 5)


def begin(b: Bench) -> "asyncio.Task[int]":
    return asyncio.get_running_loop().create_task(b.get())


async def test_only_so_many_probes_go_out_at_once() -> None:
    async with bench(probes=2, successes_to_close=2) as b:
        await b.fail(3)
        b.harness.clock.advance(10)
        gate = Gate(b, 2)
        probes = [begin(b) for _ in range(2)]
        await gate.full()
        refused = await b.harness.get("/")
        assert (refused.status, refused.header("Retry-After")) == (503, "1")
        assert refused.exchange.notes == {"circuit": "half-open"}
        gate.release.set()
        assert await asyncio.gather(*probes) == [200, 200]
        assert b.state() == "closed"


async def test_probe_whose_client_left_frees_its_place() -> None:
    async with bench() as b:
        await b.fail(3)
        b.harness.clock.advance(10)
        gate = Gate(b, 1)
        probe = begin(b)
        await gate.full()
        assert b.circuit()["probes_under_way"] == 1
        probe.cancel()
        await asyncio.wait([probe])
        assert b.circuit()["probes_under_way"] == 0
        b.upstream.before = None
        assert await b.get() == 200
        assert b.state() == "closed"


async def test_clients_that_give_up_on_a_hanging_upstream_open_the_circuit() -> None:
    async with bench(slow_seconds=2) as b:
        gate = Gate(b, 3)
        waiting = [begin(b) for _ in range(3)]
        await gate.full()
        b.harness.clock.advance(2)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert b.state() == "open"


async def test_clients_that_leave_early_say_nothing_of_the_upstream() -> None:
    async with bench(slow_seconds=2) as b:
        gate = Gate(b, 10)
        waiting = [begin(b) for _ in range(10)]
        await gate.full()
        b.harness.clock.advance(1.9)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert (b.state(), b.circuit()["window"]["calls"]) == ("closed", 0)


ROUTES = (Route("items", path="/items/*"), Route("users", path="/users/*"))


async def test_each_route_has_its_own_circuit() -> None:
    async with bench(ROUTES) as b:
        await b.fail(3, "/items/1")
        assert await b.get("/items/2") == 503
        assert await b.get("/users/1") == 200
        assert (b.state("items"), b.state("users")) == ("open", "closed")


async def test_one_circuit_may_stand_for_the_upstream() -> None:
    async with bench(ROUTES, scope="upstream") as b:
        await b.fail(2, "/items/1")
        await b.fail(1, "/users/1")
        assert await b.get("/other") == 503
        assert b.state("upstream") == "open"


async def test_transitions_are_counted_shown_and_logged() -> None:
    async with bench() as b:
        with capture_logs() as logs:
            await b.fail(3)
            await b.get()
            b.harness.clock.advance(10)
            await b.get()
        assert b.metric("sidecache_circuit_transitions") == {
            ("default", "open"): 1, ("default", "half-open"): 1, ("default", "closed"): 1,
        }  # fmt: skip
        assert b.metric("sidecache_circuits") == {("default", "closed"): 1}
        assert b.metric("sidecache_circuit_refused") == {("default",): 1}
        assert b.metric("sidecache_circuit_failures") == {("default", "status"): 3}
        assert [(line["event"], line["log_level"], line["circuit"]) for line in logs] == [
            ("circuit opened", "warning", "default"),
            ("circuit moved", "info", "default"),
            ("circuit moved", "info", "default"),
        ]
        assert logs[0]["retry_after_seconds"] == 10


async def test_state_gauge_adds_up_over_instances_and_leaves_with_them() -> None:
    metrics = Registry()

    def make(services: Services) -> list[CircuitBreaker]:
        return [CircuitBreaker(CircuitBreakerSettings(**FAST), services) for _ in range(2)]

    async with harness(make, lambda _: response(503), metrics=metrics) as driven:
        for _ in range(3):
            await driven.get("/")
        outer, inner = driven.pipeline.plugins
        states = metrics.level("sidecache_circuits", "", ("circuit", "state"))
        assert states.labels("default", "open").value == 2
        await outer.close()
        assert states.labels("default", "open").value == 1
        await outer.close()
        driven.clock.advance(10)
        await driven.get("/")  # a closed plugin moves on without touching the gauge
        await inner.close()
        assert {labels: level.value for labels, level in states.members.items() if level.value} == {}


async def test_exchange_that_begins_after_closing_does_not_count() -> None:
    async with bench() as b:
        await b.plugin.close()
        await b.get()
        assert b.metric("sidecache_circuits") == {}


async def test_hooks_without_a_permit_pass_everything_on() -> None:
    async with bench() as b:
        exchange, answered = await b.harness.begin(request())
        stranger = exchange.detach(request())
        assert await b.plugin.on_response(stranger, answered) is answered
        await b.plugin.on_error(stranger, UpstreamError("x"))
        await b.harness.finish(exchange, answered)
        assert b.circuit()["window"]["failures"] == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"scope": "host"}, {"failure_statuses": [200]}, {"failure_ratio": 0}, {"failure_ratio": 1.1}, {"probes": 0},
        {"open_seconds": 0}, {"open_growth": 0.5}, {"jitter": 2}, {"window_seconds": float("inf")}, {"unknown": 1},
        {"consecutive_failures": -1}, {"minimum_calls": 0}, {"successes_to_close": 0}, {"slow_seconds": -1},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CircuitBreakerSettings(**bad)


def test_building_the_plugin_touches_no_metric_value() -> None:
    metrics = Registry()
    services: Any = Services(FakeClock(), Any, metrics, Any, Any)  # type: ignore[arg-type]  # none of them is used
    plugin = CircuitBreaker(CircuitBreakerSettings(), services)
    assert plugin.stats() == {"scope": "route", "circuits": {}}
    assert not any(family.members for family in families(metrics))


async def test_cache_before_an_open_circuit_serves_stale_and_closes_it_again() -> None:
    clock, metrics, tasks = FakeClock(), Registry(), Tasks()
    log = MemoryLog(clock)
    store = TieredStore(MemoryStore(1 << 20, clock), None, log, clock, tasks, metrics)

    def make(services: Services) -> list[Any]:
        breaker = CircuitBreaker(CircuitBreakerSettings(**FAST), services)
        return [Cache(CacheSettings(stale_if_error_seconds=3600), services), breaker]

    upstream = Upstream()
    fresh = {"Cache-Control": "max-age=5"}
    upstream.answer = response(200, b"kept", fresh)
    async with harness(make, upstream, clock=clock, store=store, invalidations=log, metrics=metrics) as driven:
        assert (await driven.get("/kept")).body == b"kept"
        clock.advance(6)
        upstream.answer = UpstreamConnectError("refused")
        for _ in range(3):
            assert (await driven.get("/other")).status == 502
        asked = len(driven.upstream.requests)
        stale = await driven.get("/kept")
        assert (stale.status, stale.body, stale.exchange.cache.result) == (200, b"kept", CacheResult.STALE)
        refused = await driven.get("/other")
        assert (refused.status, refused.header("Retry-After")) == (503, "10")
        assert len(driven.upstream.requests) == asked
        clock.advance(10)
        upstream.answer = response(200, b"new", fresh)
        await driven.get("/other")  # the probe; its fetch may go on after the answer
        renewed = await driven.get("/kept")
        assert (renewed.status, renewed.body) == (200, b"new")
    await store.close()
    await tasks.close()
