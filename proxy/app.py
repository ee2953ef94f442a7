"""The composition root: a configuration becomes stores, plugins, a pipeline and two listeners in one process.

Theory of operation. What lives as long as the process (tiers, log, listeners, admin port) is entered into one
`AsyncExitStack` and left in reverse. What a reload may replace (the upstream pool and the pipeline) is a `Generation`:
a reload builds the next one beside the running one, and swaps them only when it has started; the old one is retired
when its last exchange is over, and nothing is under way to its upstream. What a reload does not change goes on: the
pool, and over the same pool each plugin whose settings are the same, with what it remembers.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from proxy import config as configuration
from proxy.admin.app import AdminPort
from proxy.admin.settings import AdminSettings
from proxy.admin.target import ReloadError, ReloadReport
from proxy.admin.worker import WorkerOperations
from proxy.clock import Clock, SystemClock
from proxy.config import Config
from proxy.descriptors import make_room
from proxy.errors import ConfigError
from proxy.generation import Generation, build_pipeline
from proxy.http.channel import Tunnel
from proxy.http.message import Request, Response
from proxy.logs import Logs, log_loop_exception
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import Exchange, InformationalSender, Outcome
from proxy.pipeline.passage import PassagePart, Transcript
from proxy.pipeline.pipeline import Pipeline
from proxy.pipeline.plugin import Services
from proxy.pipeline.replay import ReplayPart
from proxy.server.listener import Listener
from proxy.server.settings import ServerSettings
from proxy.storage.opening import open_store
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from proxy.upstream.health import UpstreamHealth
from proxy.upstream.pool import UpstreamPool

RELOADABLE: Final = frozenset({"upstream", "log", "pipeline", "plugins", "routes"})
TASK_GRACE_SECONDS: Final = 5.0

_log = structlog.get_logger("sidecar")


class StartError(Exception):
    """The sidecar cannot run here; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class WorkerRole:
    """What makes a sidecar one of several workers, and not the whole program.

    A worker leaves signals from the terminal and reloads to its supervisor, and SIGTERM drains it however often it
    comes: both a service manager and the supervisor may send it.

    Attributes:
        name: for the log, and the label of its metrics.
        server: with the address as all workers share it.
        admin: with the Unix socket where the supervisor reaches it.
        listening: the socket that all workers accept from; None: each opens the port itself.
        may_listen: called when the admin port is open; returns when the supervisor sends purges there, so that none
            is missed by what this worker is going to keep.
        ready: called when it serves.
    """

    name: str
    server: ServerSettings
    admin: AdminSettings
    listening: socket.socket | None
    may_listen: Callable[[], Awaitable[None]]
    ready: Callable[[], None]


class Sidecar:
    """The whole program.

    Args:
        config: to begin with.
        path: where a reload reads from; None: the environment alone.
        role: of a worker; None: this process is all there is.
    """

    def __init__(
        self, config: Config, path: Path | None, clock: Clock | None = None, *, role: WorkerRole | None = None
    ) -> None:
        self._config = config
        self._fixed = {name: table for name, table in config.view().items() if name not in RELOADABLE}
        self._path = path
        self._role = role
        self.clock: Clock = clock or SystemClock()
        self.metrics = Registry()
        self.tasks = Tasks()
        self._stop = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._prepared: Generation | None = None
        self._retiring: list[Generation] = []  # those whose pools have been replaced
        self._signals = 0
        self._draining = False
        self._listening = False
        self._listener: Listener | None = None
        self._generation: Generation
        self._services: Services
        self._logs: Logs

    # What the admin port sees.

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline that answers now."""
        return self._generation.pipeline

    @property
    def store(self) -> TieredStore:
        """The cache's tiers."""
        return self._services.store

    @property
    def services(self) -> Services:
        """What plugins get."""
        return self._services

    @property
    def upstream_health(self) -> UpstreamHealth:
        """The upstream as seen from here."""
        return self._generation.health

    @property
    def fast_lane(self) -> dict[str, int] | None:
        """See `AdminTarget.fast_lane`."""
        return self._listener.lane_stats() if self._listener is not None else None

    def settle(self) -> None:
        """See `AdminTarget.settle`."""
        if self._listener is not None:
            self._listener.settle()

    def not_ready(self) -> tuple[str, ...]:
        """Why no traffic should come; empty when it should."""
        reasons = []
        if self._draining:
            reasons.append("shutting down")
        elif not self._listening:
            reasons.append("starting")
        return tuple(reasons)

    def config_view(self) -> Mapping[str, Any]:
        """The effective configuration, secrets masked."""
        return {**self._generation.config.view(), **self._fixed}

    # What the server serves.

    def handle(
        self,
        request: Request,
        *,
        request_id: str,
        informational: InformationalSender | None = None,
        wants_replay: bool = False,
        transcript: Transcript | None = None,
    ) -> Coroutine[Any, Any, tuple[Exchange, Response]]:
        """See `Application.handle`. Not a coroutine of its own: each is entered when the upstream answers."""
        return self._of(transcript).pipeline.handle(
            request,
            request_id=request_id,
            informational=informational,
            wants_replay=wants_replay,
            transcript=transcript,
        )

    def _of(self, transcript: Transcript | None) -> Generation:
        """Who answers: who began, if the request is under way in a pool that has been replaced since."""
        if transcript is not None and transcript.begun is not None:
            for old in self._retiring:
                if old.pool is transcript.line:
                    return old
        return self._generation

    def open_tunnel(
        self, request: Request, *, protocol: str, request_id: str
    ) -> Coroutine[Any, Any, tuple[Exchange, Response | Tunnel]]:
        """See `Application.open_tunnel`."""
        return self._generation.pipeline.open_tunnel(request, protocol=protocol, request_id=request_id)

    def complete(self, exchange: Exchange, outcome: Outcome) -> None:
        """See `Application.complete`."""
        pipeline = exchange.pipeline
        assert isinstance(pipeline, Pipeline)
        pipeline.complete(exchange, outcome)

    def replay_parts(self, exchange: Exchange, outcome: Outcome) -> Sequence[ReplayPart] | None:
        """See `Application.replay_parts`. A reload may have ended what the answer was made by."""
        pipeline = self._generation.pipeline
        return pipeline.replay_parts(exchange, outcome) if exchange.pipeline is pipeline else None

    def passage_parts(self, exchange: Exchange, outcome: Outcome) -> Sequence[PassagePart] | None:
        """See `Application.passage_parts`. As above of a reload."""
        pipeline = self._generation.pipeline
        return pipeline.passage_parts(exchange, outcome) if exchange.pipeline is pipeline else None

    def leads_alike(self, alike: Exchange, target: str) -> bool:
        """See `Application.leads_alike`."""
        return self._generation.pipeline.leads_alike(alike, target)

    def abandon(self, alike: Exchange, request_id: str, started: float) -> None:
        """See `Application.abandon`."""
        pipeline = alike.pipeline
        assert isinstance(pipeline, Pipeline)
        pipeline.abandon(alike, request_id, started)

    @property
    def heeded_fields(self) -> frozenset[str] | None:
        """See `Application.heeded_fields`."""
        return self._generation.pipeline.heeded_fields

    # Its life.

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain. Returns the exit code.

        Raises:
            StartError: an address cannot be had, or a plugin does not start.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_loop_exception)
        async with AsyncExitStack() as stack:
            role = self._role
            self._logs = Logs(self._config.values.log, self.clock.wall, worker=role.name if role is not None else None)
            stack.callback(self._logs.close)
            self.metrics.total("sidecache_log_dropped_lines", "Log lines never written", lambda: self._logs.dropped)
            # Before anything starts: a signal that comes meanwhile is no reason to die of it.
            if role is not None:
                loop.add_signal_handler(signal.SIGTERM, self.stop)
            else:
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, self._on_stop, number)
                loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
            make_room(self._config.values.server.max_connections, self._config.values.upstream.max_connections)
            async with self._reloading:
                await self._start(stack)
            await self._stop.wait()
        return 0

    async def _start(self, stack: AsyncExitStack) -> None:
        """Start everything, from the inside out: the listener opens last."""
        values = self._config.values
        stack.push_async_callback(self.tasks.close, TASK_GRACE_SECONDS)
        store = open_store(values.cache, self.clock, self.tasks, self.metrics)
        stack.push_async_callback(store.close)
        await store.start()
        self._services = Services(self.clock, self.tasks, self.metrics, store, store.log)
        try:
            self._generation = await self._build(self._config)
        except ReloadError as error:
            raise StartError(str(error)) from error
        stack.push_async_callback(self._close_generation)
        role = self._role
        server = role.server if role is not None else values.server
        listener = self._listener = Listener(self, server, self.clock, self.metrics)
        if role is not None:
            admin = AdminPort(self, role.admin, WorkerOperations(self).operations())
        else:
            admin = AdminPort(self, values.admin)
        try:
            await admin.start()
            stack.push_async_callback(admin.close)
            if role is not None:
                await role.may_listen()
            await listener.start(role.listening if role is not None else None)
        except OSError as error:
            raise StartError(f"cannot listen: {error.strerror or error} (server.listen, admin.listen)") from error
        stack.push_async_callback(self._drain, listener)
        self._listening = True
        event = "ready"
        if role is not None:
            role.ready()
            event = "worker ready"
        _log.info(event, listen=[str(address) for address in listener.addresses], upstream=str(values.upstream.url))

    async def _build(self, config: Config, old: Generation | None = None) -> Generation:
        """Build and start a generation. It goes on with what of `old` its configuration does not change.

        Raises:
            ReloadError: the upstream's settings cannot be put into use, or a plugin does not start.
        """
        upstream = config.values.upstream
        if old is not None and old.config.values.upstream == upstream:
            pool, running = old.pool, old.pipeline.plugins
        else:
            old, running = None, ()
            try:
                pool = UpstreamPool(upstream, self.clock, self.metrics, self.tasks)
            except (OSError, ValueError) as error:
                raise ReloadError(f"upstream: {error}") from error
        try:
            pipeline = build_pipeline(config, self._services, pool, running)
            await pipeline.start(running=running)
        except Exception as error:
            if old is None:
                await pool.close()
            raise ReloadError(f"a plugin does not start: {error}") from error
        if old is None:
            await pool.start()
        return Generation(config, pool, pool.health, pipeline)

    async def _close_generation(self) -> None:
        await self.abandon_reload()
        async with self._reloading:
            await self._generation.pipeline.retire(0)
            await self._generation.pool.close()

    async def _drain(self, listener: Listener) -> None:
        self._draining = True
        _log.info("draining", requests=listener.in_flight)
        await listener.drain()
        _log.info("stopped")

    def stop(self) -> None:
        """Drain and end. Safe to call again."""
        self._draining = True
        self._stop.set()

    def _on_stop(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals > 1:
            # The operator does not want to wait: nothing here may hold the end up.
            os._exit(128 + number)
        self.stop()

    def _on_hangup(self) -> None:
        self.tasks.spawn("reload", self._reload_and_log())

    async def _reload_and_log(self) -> None:
        try:
            report = await self.reload()
        except ConfigError as error:
            _log.error(
                "configuration refused, the old one stays",
                mistakes=[f"{one.path}: {one.message}" for one in error.mistakes],
            )
        except ReloadError as error:
            _log.error("configuration refused, the old one stays", detail=str(error))
        else:
            _log.info("configuration reloaded", changed=report.changed, restart_needed=report.restart_needed)

    async def reload(self) -> ReloadReport:
        """Read the configuration again and put it into use, whole or not at all.

        Raises:
            ConfigError: it is bad; the old one stays.
            ReloadError: a plugin does not start; the old one stays.
        """
        await self.prepare_reload()
        return self.finish_reload()

    async def prepare_reload(self, text: str | None = None) -> None:
        """The part of a reload that can fail. `finish_reload` or `abandon_reload` is owed; other reloads wait for it.

        Args:
            text: what stands in the file; None: it is read.

        Raises:
            ConfigError, ReloadError: as `reload`; nothing is owed then.
        """
        await self._reloading.acquire()
        try:
            if self._draining:
                raise ReloadError("the sidecar is shutting down")  # noqa: TRY301 — the lock is let go of below
            config = await asyncio.to_thread(configuration.load, self._path, text)
            self._prepared = await self._build(config, self._generation)
        except BaseException:
            self._reloading.release()
            raise

    def finish_reload(self) -> ReloadReport:
        """Put into use what was prepared.

        Raises:
            ReloadError: nothing is prepared (any more).
        """
        fresh, old = self._take_prepared(), self._generation
        if fresh is None:
            raise ReloadError("no reload has been prepared")
        self._generation = fresh
        if self._listener is not None:
            self._listener.application_changed()
        self._logs.configure(fresh.config.values.log)
        if old.pool is not fresh.pool:
            self._retiring.append(old)
        self.tasks.spawn("retire", self._retire(old, fresh))
        return ReloadReport(
            changed=fresh.config.differences(old.config),
            restart_needed=[name for name in fresh.config.differences(self._config) if name not in RELOADABLE],
        )

    async def abandon_reload(self) -> None:
        """Forget what was prepared, if anything was."""
        fresh, old = self._take_prepared(), self._generation
        if fresh is None:
            return
        await fresh.pipeline.retire(0, keep=old.pipeline.plugins)
        if old.pool is not fresh.pool:
            await fresh.pool.close()

    def _take_prepared(self) -> Generation | None:
        fresh, self._prepared = self._prepared, None
        if fresh is not None:
            self._reloading.release()
        return fresh

    async def _retire(self, old: Generation, fresh: Generation) -> None:
        """End what of `old` does not go on in `fresh`, once its exchanges are over."""
        grace_seconds = self._config.values.server.drain_timeout_seconds
        if old.pool is fresh.pool:
            await old.pipeline.retire(grace_seconds, keep=fresh.pipeline.plugins)
            return
        until = self.clock.monotonic() + grace_seconds
        # Its connections first: what is on them past the pipeline is no exchange of the pipeline, and may become one.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                await old.pool.retire()
        self._retiring.remove(old)
        await old.pipeline.retire(max(0.0, until - self.clock.monotonic()))
        await old.pool.close()
