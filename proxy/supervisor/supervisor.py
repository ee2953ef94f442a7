"""The supervisor: composition root of a program with several workers."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from proxy import config as configuration
from proxy.admin.app import AdminPort
from proxy.admin.merged import merged_application
from proxy.admin.peers import Peer, SilentError, Told, ask, ask_all
from proxy.admin.target import ReloadError, ReloadReport
from proxy.app import StartError
from proxy.clock import Clock, SystemClock
from proxy.config import Config
from proxy.errors import ConfigError
from proxy.logs import Logs, log_loop_exception
from proxy.metrics.registry import Registry
from proxy.storage.opening import preload
from proxy.supervisor.fleet import Fleet, Plan
from proxy.supervisor.nursery import Nursery
from proxy.supervisor.ports import claimed
from proxy.supervisor.worker import work
from proxy.tasks import Tasks

NAME: Final = "supervisor"
PREPARE_SECONDS: Final = 30.0
"""How long workers may take to build what a new configuration describes; plugins may open things."""

_log = structlog.get_logger("supervisor")


def supervise(config: Config, path: Path | None) -> int:
    """Run several workers until SIGTERM or SIGINT, then drain them. Returns the exit code.

    To be called before there are threads or an event loop.

    Raises:
        StartError: an address cannot be had.
    """
    preload(config.values.cache)
    nursery = Nursery(work)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Supervisor(config, path, nursery).run())
    finally:
        nursery.close()


class Supervisor:
    """Starts workers, has the admin port and the signals, and serves no client.

    Args:
        path: where a reload reads from; None: the environment alone.
    """

    def __init__(self, config: Config, path: Path | None, nursery: Nursery) -> None:
        self._config = config
        self._path = path
        self._nursery = nursery
        self._classes = config.classes
        self.clock: Clock = SystemClock()
        self.metrics = Registry()
        self._tasks = Tasks()
        self._stop = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._reloads = 0
        self._signals = 0
        self._code = 0
        self._fleet: Fleet
        self._logs: Logs

    # What the admin port sees.

    @property
    def all(self) -> Sequence[Peer]:
        """Every worker, in order."""
        return self._fleet.peers

    @property
    def shares_cache(self) -> bool:
        """See `Peers.shares_cache`."""
        return self._config.values.cache.second_tier != "none"

    def plugin(self, name: str) -> type[object] | None:
        """See `Peers.plugin`."""
        return next((kind for kind in self._classes if kind.name == name), None)

    @property
    def draining(self) -> bool:
        """Whether the program is ending."""
        return self._stop.is_set()

    # Its life.

    async def run(self) -> int:
        """See `supervise`."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_loop_exception)
        values = self._config.values
        async with AsyncExitStack() as stack:
            self._logs = Logs(values.log, self.clock.wall, worker=NAME)
            stack.callback(self._logs.close)
            self.metrics.total("sidecache_log_dropped_lines", "Log lines never written", lambda: self._logs.dropped)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._on_stop, number)
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
            stack.push_async_callback(self._tasks.close)
            directory = Path(tempfile.mkdtemp(prefix="sidecache-"))  # its mode is 0700
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            try:
                listen, listening = stack.enter_context(claimed(values.server))
                plan = Plan(self._path, self._keep(directory, self._config), listen.port, directory, listening)
                self._fleet = Fleet(
                    values.workers, self._nursery, plan, self.clock, self._tasks, self.metrics, self._give_up
                )
                admin = AdminPort(merged_application(self, values.admin), values.admin)
                await admin.start()
            except OSError as error:
                raise StartError(f"cannot listen: {error.strerror or error} (server.listen, admin.listen)") from error
            stack.push_async_callback(admin.close)
            self._fleet.start()
            self._tasks.spawn("tell when ready", self._tell_when_ready(str(listen)))
            await self._stop.wait()
            _log.info("draining")
            await self._fleet.drain(values.server.drain_timeout_seconds)
            _log.info("stopped")
        return self._code

    async def _tell_when_ready(self, listen: str) -> None:
        await self._fleet.all_ready.wait()
        upstream = str(self._config.values.upstream.url)
        _log.info("ready", listen=[listen], upstream=upstream, workers=len(self._fleet.peers))

    def _keep(self, directory: Path, config: Config) -> Path | None:
        """A file with the text of `config`: a worker that is replaced later starts from what is in use then."""
        if config.text is None:
            return None
        kept = directory / f"config-{self._reloads}.toml"
        kept.write_text(config.text, encoding="utf-8")
        return kept

    def _give_up(self, code: int) -> None:
        self._code = code
        self._stop.set()

    def _on_stop(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals > 1:
            # The operator does not want to wait. The workers' channels end with this process, and so do they.
            os._exit(128 + number)
        self._stop.set()

    def _on_hangup(self) -> None:
        self._tasks.spawn("reload", self._reload_and_log())

    async def _reload_and_log(self) -> None:
        try:
            report = await self.reload()
        except ConfigError as error:
            _log.error(
                "configuration refused, the old one stays",
                mistakes=[f"{one.path}: {one.message}" for one in error.mistakes],
            )
        except (ReloadError, SilentError) as error:
            _log.error("configuration refused, the old one stays", detail=str(error))
        else:
            _log.info("configuration reloaded", changed=report.changed, restart_needed=report.restart_needed)

    async def reload(self) -> ReloadReport:
        """See `Peers.reload`. First all workers prepare, which can fail, then all put into use what they prepared."""
        async with self._reloading:
            if self.draining:
                raise ReloadError("the sidecar is shutting down")
            try:
                async with asyncio.timeout(PREPARE_SECONDS):
                    await self._fleet.all_ready.wait()
            except TimeoutError:
                raise ReloadError("the workers have not all started yet") from None
            config = await asyncio.to_thread(configuration.load, self._path)
            asked = [peer for peer in self._fleet.peers if peer.reachable]
            # Who is stuck says so sooner by not answering this than by not preparing.
            _, silent = await ask_all(asked, lambda peer: ask(peer, "GET", "/health"))
            if silent:
                raise SilentError(silent)

            async def prepare(peer: Peer) -> Told:
                return await ask(peer, "POST", "/worker/reload/prepare", {"text": config.text}, seconds=PREPARE_SECONDS)

            prepared, silent = await ask_all(asked, prepare)
            refused = [told.document for told in prepared.values() if told.status != 200]
            if silent or refused or not prepared:
                await ask_all(asked, lambda peer: ask(peer, "POST", "/worker/reload/abandon"))
                if silent:
                    raise SilentError(silent)
                raise ReloadError(_reason(refused))
            # From here on nothing is refused. A worker that starts meanwhile, or ends, starts from the new one.
            self._reloads += 1
            plan = self._fleet.plan
            self._fleet.renew(self._keep(plan.directory, config), prepared)
            self._classes = config.classes
            self._logs.configure(config.values.log)
            finished, silent = await ask_all(asked, lambda peer: ask(peer, "POST", "/worker/reload/finish"))
            for name in {*silent, *(name for name, told in finished.items() if told.status != 200)}:
                _log.error("a worker does not put the new configuration into use: it is replaced", replaced=name)
                self._nursery.kill(name, signal.SIGKILL)
            reports = [ReloadReport.model_validate_json(told.data) for told in finished.values() if told.status == 200]
            if not reports:
                raise SilentError([peer.name for peer in asked])
            return reports[0]


def _reason(refused: Sequence[Any]) -> str:
    if not refused:
        return "no worker is there to take it"
    detail: str = refused[0].get("detail", "a worker refuses it")
    mistakes = [f"{one['path']}: {one['message']}" for one in refused[0].get("errors", ())]
    return "; ".join([detail.removesuffix("; the old configuration stays"), *mistakes])
