"""The pipeline: compiled once per route, run once per request.

Rule: the order of hooks, what an answer skips, and what an error passes, is decided here and nowhere else.

`on_request` runs from left to right until one answers or the upstream does. `on_response` runs from right to left over
the plugins left of the answerer; when an `UpstreamError` comes up instead, `on_error` runs from right to left until one
rescues it, and `on_response` goes on from there. `on_complete` runs for each plugin whose turn came. A plugin that
sends requests of its own (`Exchange.tail`) runs the part right of it as a pipeline in its own right.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import structlog

from proxy.clock import Clock
from proxy.errors import ProxyError, UpstreamError
from proxy.http.body import close_body
from proxy.http.channel import Tunnel
from proxy.http.message import Request, Response
from proxy.http.problem import error_response
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import Exchange, InformationalSender, Outcome
from proxy.pipeline.failures import Failures
from proxy.pipeline.passage import PassagePart, Transcript
from proxy.pipeline.plugin import HOOKS, Plugin, Replay
from proxy.pipeline.replay import ReplayPart
from proxy.pipeline.routes import Route, RouteTable

_log = structlog.get_logger("pipeline")

T = TypeVar("T")
AnyPlugin: TypeAlias = Plugin[Any]
RequestHook: TypeAlias = Callable[[Exchange], Awaitable[Response | None]]
ResponseHook: TypeAlias = Callable[[Exchange, Response], Awaitable[Response]]
ErrorHook: TypeAlias = Callable[[Exchange, UpstreamError], Awaitable[Response | None]]
CompleteHook: TypeAlias = Callable[[Exchange, Outcome], None]
ReplayHook: TypeAlias = Callable[[Exchange, Outcome], ReplayPart | None]
PassageHook: TypeAlias = Callable[[Exchange, Outcome], PassagePart | None]

UPSTREAM: Final = "upstream"


class Upstream(Protocol):
    """Where requests go that nothing on the way answers."""

    async def open_tunnel(self, request: Request, *, protocol: str) -> Response | Tunnel:
        """Ask for a switch to `protocol`; a refusal is a response.

        Raises:
            UpstreamError: there is no response.
        """
        ...

    async def send(
        self,
        request: Request,
        *,
        informational: InformationalSender | None = None,
        transcript: Transcript | None = None,
    ) -> Response:
        """Send `request` and return the response as soon as its head is here.

        Args:
            transcript: to be filled in; or of this very request, which is under way already.

        Raises:
            UpstreamError: there is no response.
        """
        ...


def defines(plugin: AnyPlugin, hook: str) -> bool:
    """Whether the plugin's class defines `hook`, rather than inheriting the empty one."""
    return getattr(type(plugin), hook) is not getattr(Plugin, hook)


@dataclass(frozen=True, slots=True)
class Step:
    """A plugin in a chain, its hooks looked up once; None where it has none."""

    plugin: AnyPlugin
    tail: "Chain"
    on_request: RequestHook | None
    on_response: ResponseHook | None
    on_error: ErrorHook | None
    on_complete: CompleteHook | None
    on_replay: ReplayHook | None
    on_passage: PassageHook | None

    @property
    def knows_passages(self) -> bool:
        """Whether the plugin can say that it need not see requests like one that it saw."""
        return self.on_passage is not None and self.plugin.heeded_fields is not None


class Chain:
    """The plugins of a route from some place on, and the upstream behind them. A `Tail`."""

    __slots__ = ("_answered", "_asked", "_clock", "_completed", "_failures", "_upstream", "steps")

    def __init__(self, plugins: Sequence[AnyPlugin], upstream: Upstream, clock: Clock, failures: Failures) -> None:
        self._upstream = upstream
        self._clock = clock
        self._failures = failures
        steps: list[Step] = []
        for place, plugin in enumerate(plugins):
            hooks = {hook: getattr(plugin, hook) if defines(plugin, hook) else None for hook in HOOKS}
            steps.append(Step(plugin, Chain(plugins[place + 1 :], upstream, clock, failures), **hooks))
        self.steps = tuple(steps)
        # The hooks that there are, with the places (from 1) of their plugins, in the order of their calls.
        places = list(enumerate(steps, 1))
        self._asked = [(place, step, step.on_request) for place, step in places if step.on_request is not None]
        self._answered = [
            (place, step, step.on_response) for place, step in places[::-1] if step.on_response is not None
        ]
        self._completed = [(place, step, step.on_complete) for place, step in places if step.on_complete is not None]

    async def run(self, exchange: Exchange) -> Response:
        """See `Tail.run`. A failing hook becomes a `PluginError`."""
        reached = 0
        try:
            for reached, step, on_request in self._asked:
                exchange.reached = reached
                exchange.tail = step.tail
                try:
                    response = await on_request(exchange)
                except ProxyError:
                    raise
                except Exception as error:
                    raise self._failures.of_hook(step.plugin.name, "on_request", error) from error
                if response is not None:
                    exchange.answered_by = exchange.answered_by or step.plugin.name
                    break
            else:
                exchange.reached = len(self.steps)
                reached = exchange.reached + 1
                response = await self._ask_upstream(exchange)
        except UpstreamError as error:
            response, reached = await self._rescue(exchange, error, max(reached - 1, 0))
        for place, step, on_response in self._answered:
            if place >= reached:
                continue
            try:
                response = await on_response(exchange, response)
            except BaseException as error:
                await close_body(response.body)
                if isinstance(error, ProxyError) or not isinstance(error, Exception):
                    raise
                raise self._failures.of_hook(step.plugin.name, "on_response", error) from error
        return response

    async def _ask_upstream(self, exchange: Exchange) -> Response:
        exchange.tail = None
        exchange.answered_by = UPSTREAM
        transcript = exchange.transcript
        began = transcript.began if transcript is not None and exchange.under_way else self._clock.monotonic()
        try:
            if not exchange.switch_to:
                return await self._upstream.send(
                    exchange.request, informational=exchange.informational, transcript=exchange.transcript
                )
            answer = await self._upstream.open_tunnel(exchange.request, protocol=exchange.switch_to)
            if isinstance(answer, Response):
                return answer
            exchange.tunnel = answer
            return answer.response
        finally:
            exchange.upstream_seconds = self._clock.monotonic() - began

    async def _rescue(self, exchange: Exchange, error: UpstreamError, before: int) -> tuple[Response, int]:
        """A response instead of `error`, and the place (from 1) of the plugin that gave it."""
        for place in range(before, 0, -1):
            step = self.steps[place - 1]
            if step.on_error is None:
                continue
            try:
                response = await step.on_error(exchange, error)
            except ProxyError:
                raise
            except Exception as failure:
                raise self._failures.of_hook(step.plugin.name, "on_error", failure) from failure
            if response is not None:
                exchange.answered_by = step.plugin.name
                return response, place
        raise error

    def complete(self, exchange: Exchange, outcome: Outcome) -> None:
        """See `Tail.complete`."""
        reached = exchange.reached
        for place, step, on_complete in self._completed:
            if place > reached:
                break
            try:
                on_complete(exchange, outcome)
            except Exception as error:  # noqa: BLE001 — one plugin's mistake must not keep the others from their turn
                self._failures.of_hook(step.plugin.name, "on_complete", error)

    @property
    def replayed(self) -> tuple[AnyPlugin, ...]:
        """The plugins that an answer given again goes round: up to the one that may answer so. Empty without one."""
        for place, step in enumerate(self.steps, 1):
            if step.plugin.answers_by_replay:
                return tuple(step.plugin for step in self.steps[:place])
        return ()

    @property
    def against_replay(self) -> tuple[str, ...]:
        """The names of the plugins that must see each exchange, so that no answer of this chain is given again."""
        left = self.replayed[:-1]
        return tuple(plugin.name for plugin in left if plugin.replay is Replay.NEVER)

    def replay_parts(self, exchange: Exchange, outcome: Outcome) -> list[ReplayPart] | None:
        """See `Pipeline.replay_parts`."""
        parts: list[ReplayPart] = []
        for place, step in enumerate(self.steps[: exchange.reached], 1):
            if step.plugin.replay is Replay.NEVER and place < exchange.reached:
                return None
            if step.on_replay is None:
                continue
            try:
                part = step.on_replay(exchange, outcome)
                if part is not None:
                    parts.append(self._failures.guard_replay(step.plugin.name, part))
            except Exception as error:  # noqa: BLE001 — the answer is on its way already; it is just not kept
                self._failures.of_hook(step.plugin.name, "on_replay", error)
                return None
        return parts

    @property
    def knows_passages(self) -> bool:
        """Whether no plugin has to see each request that goes on to the upstream."""
        return all(step.knows_passages for step in self.steps)

    def passage_parts(self, exchange: Exchange, outcome: Outcome) -> list[PassagePart] | None:
        """See `Tail.passage_parts`."""
        parts: list[PassagePart] = []
        for step in self.steps[: exchange.reached]:
            if not step.knows_passages:
                return None
            assert step.on_passage is not None
            try:
                part = step.on_passage(exchange, outcome)
                if part is None:
                    return None
                parts.append(self._failures.guard_passage(step.plugin.name, part))
            except Exception as error:  # noqa: BLE001 — the answer is on its way already; the next go as this one did
                self._failures.of_hook(step.plugin.name, "on_passage", error)
                return None
        return parts


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """A route and the plugins that its requests pass, in order."""

    route: Route
    plugins: tuple[AnyPlugin, ...]


class Pipeline:
    """Every route's chain.

    Args:
        plans: one for each configured route, in order of matching.
        default: the plugins of requests that match no route.

    Attributes:
        in_flight: exchanges under way.
    """

    def __init__(
        self,
        plans: Sequence[RoutePlan],
        default: Sequence[AnyPlugin],
        upstream: Upstream,
        clock: Clock,
        metrics: Registry,
    ) -> None:
        self._clock = clock
        failures = Failures(clock, metrics)
        self.table = RouteTable([plan.route for plan in plans])
        chains = [plan.plugins for plan in plans]
        self.chains: dict[str, Chain] = {
            route.name: Chain(plugins, upstream, clock, failures)
            for route, plugins in zip(self.table.routes, [*chains, tuple(default)], strict=True)
        }
        distinct = dict.fromkeys(plugin for plugins in [*chains, default] for plugin in plugins)
        self.plugins: tuple[AnyPlugin, ...] = tuple(distinct)
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self, *, running: Collection[AnyPlugin] = ()) -> None:
        """Start every plugin once, from left to right, but for those that are `running`.

        Raises:
            Exception: what a plugin's `start` raised; those started before are closed.
        """
        for plugin in self.plugins:
            if plugin in running:
                continue
            try:
                await plugin.start()
            except BaseException:
                await self.close(keep=running)
                raise
        self._tell_what_is_against_replay()

    def _tell_what_is_against_replay(self) -> None:
        for name, chain in self.chains.items():
            if against := chain.against_replay:
                _log.info("no kept answers on this route: plugins must see each request", route=name, plugins=against)
        if heeding := [plugin.name for plugin in self._replayed() if plugin.heeded_fields is None]:
            _log.info("kept answers for equal requests only: plugins may heed any field", plugins=heeding)

    async def close(self, *, keep: Collection[AnyPlugin] = ()) -> None:
        """Close every plugin but `keep`, from right to left; a failing one is logged and the others are closed all the
        same.
        """
        for plugin in reversed(self.plugins):
            if plugin in keep:
                continue
            try:
                await plugin.close()
            except Exception as error:  # noqa: BLE001 — logged; the others have a right to be closed
                _log.error("plugin did not close", plugin=plugin.name, exc_info=error)

    async def retire(self, grace_seconds: float, *, keep: Collection[AnyPlugin] = ()) -> None:
        """Wait until no exchange is under way, at most `grace_seconds`, then close all but `keep`."""
        try:
            async with asyncio.timeout(grace_seconds):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("closing plugins with exchanges under way", exchanges=self.in_flight)
        await self.close(keep=keep)

    async def handle(
        self,
        request: Request,
        *,
        request_id: str,
        informational: InformationalSender | None = None,
        wants_replay: bool = False,
        transcript: Transcript | None = None,
    ) -> tuple[Exchange, Response]:
        """Answer `request`; an error is answered with its problem document. `complete` is owed for the exchange.

        Args:
            wants_replay, transcript: see `Exchange`.

        Raises:
            asyncio.CancelledError: the client left; the exchange has been completed.
        """
        exchange = self._begin(request, request_id)
        exchange.informational = informational
        exchange.wants_replay = wants_replay
        exchange.transcript = transcript
        return exchange, await self._answer(exchange)

    async def open_tunnel(
        self, request: Request, *, protocol: str, request_id: str
    ) -> tuple[Exchange, Response | Tunnel]:
        """Send a request to switch protocols through the pipeline. `complete` is owed for the exchange.

        Raises:
            asyncio.CancelledError: the client left; the exchange has been completed.
        """
        exchange = self._begin(request, request_id)
        exchange.switch_to = protocol
        response = await self._answer(exchange)
        tunnel = exchange.tunnel
        if tunnel is None:
            return exchange, response
        if response.status != 101:  # a plugin put another answer in its place
            await tunnel.channel.aclose()
            return exchange, response
        return exchange, replace(tunnel, response=response)

    def _begin(self, request: Request, request_id: str) -> Exchange:
        if not self.in_flight:
            self._idle.clear()
        self.in_flight += 1
        exchange = Exchange(request, self.table.find(request), request_id, self._clock.monotonic())
        exchange.pipeline = self  # a keyword in the call would cost more than all that is without one
        return exchange

    async def _answer(self, exchange: Exchange) -> Response:
        try:
            response = await self.chains[exchange.route.name].run(exchange)
        except ProxyError as error:
            exchange.answered_by = "error"
            exchange.error = error
            response = error_response(error)
        except BaseException:
            elapsed = self._clock.monotonic() - exchange.started
            self.complete(exchange, Outcome(status=499, bytes_sent=0, duration=elapsed, aborted=True))
            if exchange.tunnel is not None:
                await exchange.tunnel.channel.aclose()
            raise
        if exchange.response_fields:
            headers = response.headers.copy()
            headers.extend(exchange.response_fields)
            response = response.with_headers(headers)
        return response

    def replay_parts(self, exchange: Exchange, outcome: Outcome) -> list[ReplayPart] | None:
        """What the plugins do when the answer to `exchange` is given again; None: one of them does not allow it."""
        if exchange.replay is None:
            return None
        return self.chains[exchange.route.name].replay_parts(exchange, outcome)

    def passage_parts(self, exchange: Exchange, outcome: Outcome) -> list[PassagePart] | None:
        """What the plugins do when a request goes the way of `exchange`; None: one of them has to see each."""
        if exchange.passage is None and exchange.recall is None:
            return None
        parts = self.chains[exchange.route.name].passage_parts(exchange, outcome)
        if parts is None or exchange.beyond is None:
            return parts
        sent, tail = exchange.beyond
        behind = tail.passage_parts(sent, outcome)
        return None if behind is None else [*parts, *behind]

    def leads_alike(self, alike: Exchange, target: str) -> bool:
        """Whether a request for `target`, else like that of `alike`, takes the same route."""
        if len(self.table.routes) == 1:
            return True
        return self.table.find_for(alike.request.method, target, alike.request.host) is alike.route

    def abandon(self, alike: Exchange, request_id: str, started: float) -> None:
        """Take note of an exchange like `alike` whose client left before there was a response.

        Args:
            started: monotonic seconds.
        """
        self.in_flight += 1
        exchange = Exchange(alike.request, alike.route, request_id, started, cache=alike.cache, reached=alike.reached)
        elapsed = exchange.upstream_seconds = self._clock.monotonic() - started
        exchange.answered_by = UPSTREAM
        self.complete(exchange, Outcome(status=499, bytes_sent=0, duration=elapsed, aborted=True))

    @property
    def heeded_fields(self) -> frozenset[str] | None:
        """The request fields that answers given again depend on, in lower case; None: all of them."""
        heeded: set[str] = set()
        for plugin in self._replayed():
            fields = plugin.heeded_fields
            if fields is None:
                return None
            heeded |= fields
        for chain in self.chains.values():
            if chain.knows_passages:
                heeded.update(*(step.plugin.heeded_fields or () for step in chain.steps))
        return frozenset(heeded)

    def _replayed(self) -> list[AnyPlugin]:
        """The plugins that answers given again go round, each once."""
        chains = [chain.replayed for chain in self.chains.values() if not chain.against_replay]
        return list(dict.fromkeys(plugin for plugins in chains for plugin in plugins))

    def complete(self, exchange: Exchange, outcome: Outcome) -> None:
        """Tell every plugin that saw the exchange how it ended."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()
        self.chains[exchange.route.name].complete(exchange, outcome)
