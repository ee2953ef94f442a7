"""The whole sidecar but for its process: a real listener before a real pipeline and cache, and a scripted upstream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from plugins import REGISTRY
from proxy.address import Address
from proxy.http.channel import Tunnel
from proxy.http.message import Request, Response
from proxy.metrics.exposition import expose
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import Exchange, InformationalSender, Outcome
from proxy.pipeline.passage import PassagePart, Transcript
from proxy.pipeline.pipeline import Pipeline, RoutePlan, Upstream
from proxy.pipeline.plugin import Plugin, Services
from proxy.pipeline.replay import ReplayPart
from proxy.pipeline.routes import Route
from proxy.server.fast_lane import FastLane
from proxy.server.listener import Listener
from proxy.server.settings import ServerSettings
from proxy.storage.invalidation_log import PurgeScope
from proxy.storage.memory import MemoryStore
from proxy.storage.memory_log import MemoryLog
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from tests.support.clock import FakeClock
from tests.support.plugin_harness import Script, ScriptedFunction

LANE_BYTES = 16 << 20

Plugins = Callable[[Services], Sequence[Plugin[Any]]]


def built_in(services: Services, **settings: Mapping[str, Any]) -> list[Plugin[Any]]:
    """The built-in plugins in their usual order."""
    return [
        plugin(plugin.settings_type.model_validate(settings.get(name, {})), services)
        for name, plugin in REGISTRY.items()
    ]


class Replaceable:
    """An application that hands everything to a pipeline, which may be another from one request to the next."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    async def handle(
        self,
        request: Request,
        *,
        request_id: str,
        informational: InformationalSender | None = None,
        wants_replay: bool = False,
        transcript: Transcript | None = None,
    ) -> tuple[Exchange, Response]:
        pipeline = self.pipeline
        exchange, response = await pipeline.handle(
            request,
            request_id=request_id,
            informational=informational,
            wants_replay=wants_replay,
            transcript=transcript,
        )
        exchange.pipeline = pipeline
        return exchange, response

    async def open_tunnel(
        self, request: Request, *, protocol: str, request_id: str
    ) -> tuple[Exchange, Response | Tunnel]:
        pipeline = self.pipeline
        exchange, answer = await pipeline.open_tunnel(request, protocol=protocol, request_id=request_id)
        exchange.pipeline = pipeline
        return exchange, answer

    def complete(self, exchange: Exchange, outcome: Outcome) -> None:
        pipeline = exchange.pipeline
        assert isinstance(pipeline, Pipeline)
        pipeline.complete(exchange, outcome)

    def replay_parts(self, exchange: Exchange, outcome: Outcome) -> Sequence[ReplayPart] | None:
        return self.pipeline.replay_parts(exchange, outcome) if exchange.pipeline is self.pipeline else None

    def passage_parts(self, exchange: Exchange, outcome: Outcome) -> Sequence[PassagePart] | None:
        return self.pipeline.passage_parts(exchange, outcome) if exchange.pipeline is self.pipeline else None

    def leads_alike(self, alike: Exchange, target: str) -> bool:
        return self.pipeline.leads_alike(alike, target)

    def abandon(self, alike: Exchange, request_id: str, started: float) -> None:
        self.pipeline.abandon(alike, request_id, started)

    @property
    def heeded_fields(self) -> frozenset[str] | None:
        return self.pipeline.heeded_fields


@dataclass
class Site:
    """A running one."""

    clock: FakeClock
    services: Services
    upstream: ScriptedFunction
    application: Replaceable
    listener: Listener
    lane: FastLane | None

    @property
    def store(self) -> TieredStore:
        return self.services.store

    @property
    def address(self) -> Address:
        return self.listener.addresses[0]

    @property
    def hits(self) -> int:
        """Requests that the lane has answered."""
        self.listener.settle()
        return self.lane.hits if self.lane is not None else 0

    def sample(self, name: str, **labels: str) -> float:
        """The sum of the series of `name` with these labels, as they are scraped."""
        self.listener.settle()
        return sample(self.services.metrics, name, **labels)

    async def purge(self, scope: PurgeScope, value: str, *, soft: bool = False) -> None:
        """Purge as the admin port does, and wait until it is in effect."""
        await self.services.invalidations.append(scope, value, soft=soft)
        await asyncio.sleep(0)

    async def replace_plugins(self, plugins: Plugins) -> None:
        """Put another pipeline into use, as a reload does."""
        self.application.pipeline = await self._pipeline(plugins)
        self.listener.application_changed()

    async def _pipeline(self, plugins: Plugins) -> Pipeline:
        return await make_pipeline(self.services, plugins, self.upstream)


def sample(metrics: Registry, name: str, **labels: str) -> float:
    """See `Site.sample`."""
    total = 0.0
    for line in expose(metrics)[0].decode().splitlines():
        series, _, value = line.rpartition(" ")
        base, _, listed = series.partition("{")
        if base == name and all(f'{key}="{wanted}"' in listed for key, wanted in labels.items()):
            total += float(value)
    return total


async def make_pipeline(
    services: Services, plugins: Plugins, upstream: Upstream, routes: Sequence[Route] = ()
) -> Pipeline:
    """A started pipeline with the same plugins on each route."""
    members = tuple(plugins(services))
    pipeline = Pipeline(
        [RoutePlan(route, members) for route in routes], members, upstream, services.clock, services.metrics
    )
    await pipeline.start()
    return pipeline


@asynccontextmanager
async def site(
    script: Script,
    *,
    plugins: Plugins = built_in,
    routes: Sequence[Route] = (),
    lane_bytes: int = LANE_BYTES,
    l1_bytes: int = 1 << 24,
    clock: FakeClock | None = None,
    **settings: object,
) -> AsyncIterator[Site]:
    """A site on a port of its own, ended in any case.

    Args:
        script: the upstream.
        lane_bytes: 0: without the fast lane.
        settings: of the server.
    """
    clock = clock or FakeClock()
    metrics = Registry()
    async with AsyncExitStack() as stack:
        tasks = Tasks()
        stack.push_async_callback(tasks.close)
        log = MemoryLog(clock)
        store = TieredStore(MemoryStore(l1_bytes, clock), None, log, clock, tasks, metrics)
        stack.push_async_callback(store.close)
        services = Services(clock=clock, tasks=tasks, metrics=metrics, store=store, invalidations=log)
        upstream = ScriptedFunction(script)
        application = Replaceable(await make_pipeline(services, plugins, upstream, routes))
        values = {
            "listen": "127.0.0.1:0",
            "drain_timeout_seconds": 1.0,
            "fast_lane_max_bytes": lane_bytes,
            **settings,
        }
        listener = Listener(application, ServerSettings.model_validate(values), clock, metrics)
        await listener.start()
        stack.push_async_callback(listener.drain, 0.0)
        yield Site(clock, services, upstream, application, listener, listener.lane)
        await application.pipeline.close()
