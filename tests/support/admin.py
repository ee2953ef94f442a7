"""The admin port over a real socket, in front of a real pipeline, cache and store."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDictProxy

from plugins.cache import Cache
from plugins.cache.settings import CacheSettings
from plugins.latency import Latency, LatencySettings
from proxy.admin.app import AdminPort
from proxy.admin.settings import AdminSettings
from proxy.admin.target import DependencyHealth, ReloadReport
from proxy.clock import Clock
from proxy.http.message import Request, Response
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import Exchange, Outcome
from proxy.pipeline.pipeline import Pipeline
from proxy.pipeline.plugin import Plugin, Services
from proxy.pipeline.routes import Route
from proxy.storage.breaker import TierHealth, TierState
from proxy.storage.memory import MemoryStore
from proxy.storage.memory_log import MemoryLog
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from tests.support.clock import FakeClock
from tests.support.plugin_harness import PluginHarness, Script, harness, response

TOKEN = "a-token-of-some-length"
ROUTES = (Route("items", path="/items/{id}", methods=frozenset({"GET"}), hosts=("example.test",)),)

Plugins = Callable[[Services], Sequence[Plugin[Any]]]


def two_plugins(services: Services) -> Sequence[Plugin[Any]]:
    """Latency, and the cache."""
    return [Latency(LatencySettings(), services), Cache(CacheSettings(ttl_seconds=60.0), services)]


def hello(request: Request) -> Response:
    """A cacheable response."""
    return response(200, b"hello", {"Content-Type": "text/plain", "Cache-Tag": "greetings"})


async def no_reload() -> ReloadReport:
    """Nothing has changed."""
    return ReloadReport(changed=[], restart_needed=[])


@dataclass
class Target:
    """An `AdminTarget` over a `PluginHarness`.

    Attributes:
        reasons: why it is not ready.
        reloading: what a reload does.
        completed: what exchanges ended with.
        settled: how often it was asked to bring its counts up to date.
        fast_lane: what there is to tell of it.
    """

    driven: PluginHarness
    upstream_health: DependencyHealth
    reasons: tuple[str, ...] = ()
    view: dict[str, Any] = field(default_factory=lambda: {"admin": {"token": "**********"}})
    reloading: Callable[[], Any] = no_reload
    completed: list[Outcome] = field(default_factory=list)
    settled: int = 0
    fast_lane: dict[str, int] | None = None

    @property
    def clock(self) -> Clock:
        return self.driven.clock

    @property
    def metrics(self) -> Registry:
        return self.driven.services.metrics

    @property
    def pipeline(self) -> Pipeline:
        return self.driven.pipeline

    @property
    def store(self) -> TieredStore:
        return self.driven.services.store

    def settle(self) -> None:
        self.settled += 1

    def not_ready(self) -> tuple[str, ...]:
        return self.reasons

    def config_view(self) -> Mapping[str, Any]:
        return self.view

    async def handle(self, request: Request, *, request_id: str) -> tuple[Exchange, Response]:
        return await self.driven.pipeline.handle(request, request_id=request_id)

    def complete(self, exchange: Exchange, outcome: Outcome) -> None:
        self.completed.append(outcome)
        self.driven.pipeline.complete(exchange, outcome)

    async def reload(self) -> ReloadReport:
        report: ReloadReport = await self.reloading()
        return report


@dataclass
class Answered:
    """What a caller got."""

    status: int
    headers: CIMultiDictProxy[str]
    raw: bytes

    @property
    def document(self) -> Any:
        """The body, from JSON."""
        return orjson.loads(self.raw)

    @property
    def is_problem(self) -> bool:
        """Whether it is a problem document about its own status."""
        return self.headers["Content-Type"] == "application/problem+json" and self.document["status"] == self.status


@dataclass
class AdminBench:
    """An admin port, and a way to call it."""

    port: AdminPort
    target: Target
    session: aiohttp.ClientSession
    url: str

    @property
    def driven(self) -> PluginHarness:
        return self.target.driven

    async def call(
        self, method: str, path: str, document: object = None, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Answered:
        """Call the port; a POST sends `document` as JSON."""
        fields = dict(headers or {})
        if method == "POST":
            fields.setdefault("Content-Type", "application/json")
            if document is not None:
                more["data"] = orjson.dumps(document)
        async with self.session.request(method, self.url + path, headers=fields, **more) as answer:
            return Answered(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **more: Any) -> Answered:
        return await self.call("GET", path, **more)

    async def post(self, path: str, document: object = None, **more: Any) -> Answered:
        return await self.call("POST", path, document, **more)


@asynccontextmanager
async def bench(
    script: Script = hello, plugins: Plugins = two_plugins, *, clock: FakeClock | None = None, **settings: Any
) -> AsyncIterator[AdminBench]:
    """An admin port in front of `plugins` and an upstream that answers by `script`."""
    clock = clock or FakeClock()
    tasks, log = Tasks(), MemoryLog(clock)
    store = TieredStore(MemoryStore(2**20, clock), None, log, clock, tasks, Registry())
    await store.start()
    admin = AdminSettings(**{"listen": "127.0.0.1:0", **settings})
    try:
        async with harness(plugins, script, clock=clock, routes=ROUTES, store=store, invalidations=log) as driven:
            target = Target(driven, TierHealth(TierState.UP, clock.wall(), last_latency_seconds=0.002))
            port = AdminPort(target, admin)
            await port.start()
            path = port.addresses[0].path
            connector = aiohttp.UnixConnector(path) if path else aiohttp.TCPConnector()
            async with aiohttp.ClientSession(connector=connector) as session:
                try:
                    url = "http://localhost" if path else f"http://{port.addresses[0]}"
                    yield AdminBench(port, target, session, url)
                finally:
                    await port.close()
    finally:
        await store.close()
        await tasks.close()
