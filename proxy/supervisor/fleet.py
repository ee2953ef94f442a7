"""The workers: started, watched, replaced and drained."""

import asyncio
import random
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from proxy.admin.peers import Peer, PeerState
from proxy.clock import Clock
from proxy.metrics.registry import Registry
from proxy.supervisor import channel
from proxy.supervisor.channel import Channel, Message
from proxy.supervisor.nursery import Nursery
from proxy.supervisor.worker import DRAIN, LISTEN, OPEN, READY, socket_path
from proxy.tasks import Tasks

FIRST_RESTART_SECONDS: Final = 0.1
LAST_RESTART_SECONDS: Final = 10.0
STEADY_SECONDS: Final = 10.0
"""A worker that has served so long was no failure to start: the next one comes without much delay."""
MAX_FAILED_STARTS: Final = 3
"""How often in a row a worker may say that it cannot start, while no other serves."""
KILL_GRACE_SECONDS: Final = 15.0
"""How much longer than the drain time-out a worker may take to end: it cuts connections and closes stores after it."""

_log = structlog.get_logger("supervisor")


@dataclass(frozen=True, slots=True)
class Plan:
    """What every worker starts from.

    Attributes:
        path: of config.toml; None: the environment alone.
        text: a file with what stood there when it was last put into use; None as `path`.
        port: to listen at; 0 where all accept from `listening`.
        directory: of the workers' admin sockets; private.
        listening: a socket that all workers accept from; None: each opens the port.
    """

    path: Path | None
    text: Path | None
    port: int
    directory: Path
    listening: socket.socket | None

    def order(self) -> Message:
        """As a message to the nursery."""
        return {
            "path": str(self.path.absolute()) if self.path is not None else None,
            "text": str(self.text) if self.text is not None else None,
            "port": self.port,
            "directory": str(self.directory),
        }


class _Worker:
    """What the fleet knows of one worker."""

    __slots__ = ("channel", "failures", "peer", "plan")

    def __init__(self, peer: Peer, plan: Plan) -> None:
        self.peer = peer
        self.plan = plan
        self.channel: Channel | None = None
        self.failures = 0


class Fleet:
    """All workers.

    Args:
        size: how many.
        plan: what they start from; may be replaced, for those that are started from then on.
        give_up: called once with an exit code when going on makes no sense.

    Attributes:
        draining: whether the end has begun: nothing is replaced any more.
        all_ready: set when every worker has been ready once.
    """

    def __init__(
        self,
        size: int,
        nursery: Nursery,
        plan: Plan,
        clock: Clock,
        tasks: Tasks,
        metrics: Registry,
        give_up: Callable[[int], None],
    ) -> None:
        self.plan = plan
        self.draining = False
        self.all_ready = asyncio.Event()
        self._all_gone = asyncio.Event()
        self._nursery = nursery
        self._nursery_lost = False
        self._clock = clock
        self._tasks = tasks
        self._give_up = give_up
        names = [str(number) for number in range(1, size + 1)]
        self._workers = {name: _Worker(Peer(name, str(socket_path(str(plan.directory), name))), plan) for name in names}
        self._restarts = metrics.counter(
            "sidecache_worker_restarts", "Worker processes that ended without being told to", ("worker",)
        )
        for name in names:
            self._restarts.labels(name)

    @property
    def peers(self) -> Sequence[Peer]:
        """The workers, in order."""
        return [worker.peer for worker in self._workers.values()]

    def renew(self, text: Path | None, taken_by: Collection[str]) -> None:
        """Start workers from another text from now on. Those in `taken_by` have it already, or end."""
        self.plan = replace(self.plan, text=text)
        for name in taken_by:
            self._workers[name].plan = self.plan

    def start(self) -> None:
        """Have every worker started."""
        self._nursery.follow(self._born, self._died, self._lost)
        for worker in self._workers.values():
            self._start(worker)

    async def drain(self, grace_seconds: float) -> None:
        """Tell every worker to drain, and wait until all have ended; those that do not are killed."""
        self.draining = True
        for worker in self._workers.values():
            if worker.channel is not None:
                self._set(worker, "draining")
                worker.channel.send({"say": DRAIN})
        self._look_whether_all_gone()
        for seconds, number in ((grace_seconds + KILL_GRACE_SECONDS, signal.SIGKILL), (KILL_GRACE_SECONDS, None)):
            try:
                async with asyncio.timeout(seconds):
                    await self._all_gone.wait()
            except TimeoutError:
                left = [worker.peer.name for worker in self._workers.values() if worker.channel is not None]
                _log.error("workers do not end", workers=left, killed=number is not None)
                if number is not None:
                    for name in left:
                        self._nursery.kill(name, number)
            else:
                return

    # One worker's life.

    def _start(self, worker: _Worker) -> None:
        ours, theirs = channel.pair()
        name, plan = worker.peer.name, self.plan
        worker.plan = plan
        worker.peer.gone = asyncio.Event()
        worker.channel = Channel(ours, lambda message: self._said(worker, message), lambda: self._hung_up(worker))
        self._set(worker, "starting")
        descriptors = [theirs.fileno(), *([plan.listening.fileno()] if plan.listening is not None else [])]
        self._nursery.start(name, plan.order(), descriptors)
        theirs.close()

    def _born(self, name: str, pid: int) -> None:
        self._workers[name].peer.pid = pid
        _log.info("worker started", started=name, pid=pid)
        if self.draining and (hold := self._workers[name].channel) is not None:
            hold.send({"say": DRAIN})

    def _said(self, worker: _Worker, message: Message) -> None:
        hold = worker.channel
        if hold is None:
            return
        if message["say"] == OPEN:
            worker.peer.reachable = True
            hold.send({"say": LISTEN})
        elif message["say"] == READY and not self.draining:
            if worker.plan is not self.plan:
                # A reload came while it started: it has to begin again from what is in use now.
                hold.send({"say": DRAIN})
                return
            self._set(worker, "ready")
            if all(peer.state == "ready" for peer in self.peers):
                self.all_ready.set()

    def _hung_up(self, worker: _Worker) -> None:
        """The worker's end of the channel is closed. The nursery tells its exit code presently, if it is there."""
        worker.peer.reachable = False
        worker.peer.gone.set()
        if self._nursery_lost:
            self._ended(worker)

    def _died(self, name: str, code: int) -> None:
        worker = self._workers[name]
        peer = worker.peer
        served_seconds = self._clock.monotonic() - peer.since if peer.state == "ready" else 0.0
        was_ready, outdated = peer.state == "ready", worker.plan is not self.plan
        pid, peer.last_exit = peer.pid, code
        self._ended(worker)
        if self.draining:
            _log.info("worker ended", ended=name, pid=pid, code=code)
            return
        if outdated and code == 0:
            _log.info("worker starts again with the new configuration", replaced=name)
            self._start(worker)
            return
        peer.restarts += 1
        self._restarts.labels(name).value += 1
        worker.failures = 1 if served_seconds >= STEADY_SECONDS else worker.failures + 1
        # Below zero, a signal ended it, which is no matter of configuration.
        if code > 0 and not was_ready and worker.failures >= MAX_FAILED_STARTS and not self._any_ready():
            _log.critical("no worker can start", failed=name, code=code, attempts=worker.failures)
            self._give_up(code)
            return
        delay_seconds = _delay_seconds(worker.failures)
        _log.error("worker died", died=name, pid=pid, code=code, restart_in_seconds=round(delay_seconds, 3))
        self._tasks.spawn(f"restart worker {name}", self._start_later(worker, delay_seconds))

    def _ended(self, worker: _Worker) -> None:
        if worker.channel is not None:
            worker.channel.close()
            worker.channel = None
        worker.peer.reachable = False
        worker.peer.gone.set()
        worker.peer.pid = None
        self._set(worker, "dead")
        self._look_whether_all_gone()

    async def _start_later(self, worker: _Worker, delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        if not self.draining:
            self._start(worker)

    def _lost(self) -> None:
        if self.draining:
            return
        self._nursery_lost = True
        _log.critical("the process that starts workers has ended: draining, since none could be replaced")
        for worker in self._workers.values():
            if worker.channel is not None and not worker.peer.reachable and worker.peer.gone.is_set():
                self._ended(worker)
        self._give_up(1)

    def _any_ready(self) -> bool:
        return any(peer.state == "ready" for peer in self.peers)

    def _set(self, worker: _Worker, state: PeerState) -> None:
        worker.peer.state = state
        worker.peer.since = self._clock.monotonic()

    def _look_whether_all_gone(self) -> None:
        if self.draining and all(worker.channel is None for worker in self._workers.values()):
            self._all_gone.set()


def _delay_seconds(failures: int) -> float:
    """How long to wait before the next attempt. Jitter keeps workers that fail together from starting together."""
    longest: float = min(LAST_RESTART_SECONDS, FIRST_RESTART_SECONDS * 2 ** min(max(failures - 1, 0), 16))
    return longest * random.SystemRandom().uniform(0.5, 1.0)
