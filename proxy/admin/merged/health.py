"""Whether the program lives, whether traffic should come, and how each worker is."""

import asyncio
import os
import platform
import resource
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from proxy.admin.health import (
    DOWN,
    VERSION,
    Dependencies,
    DetailedHealth,
    Liveness,
    moment,
)
from proxy.admin.merged.asking import NONE_ANSWERS, RETRY_AFTER_SECONDS, ask_each
from proxy.admin.operations import (
    Answer,
    AnyOperation,
    Anything,
    Call,
    Empty,
    Operation,
    Problem,
    RefusedError,
    Reply,
)
from proxy.admin.peers import Peers, Told, ask, ask_all

PROBE_SECONDS: Final = 0.9
"""How long a worker may take to say that it is ready: Kubernetes waits for a probe for a second by default."""

State = Literal["starting", "ready", "draining", "dead", "silent"]


class WorkerState(BaseModel):
    """A worker."""

    worker: str
    state: State = Field(description="`silent`: it is alive and does not answer.")


class WorkersReady(BaseModel):
    """Traffic may come."""

    status: Literal["ready"] = "ready"
    workers: list[WorkerState]


class WorkerHealth(WorkerState):
    """A worker and what became of it."""

    pid: int | None
    restarts: int = Field(description="Processes that had to be replaced.")
    last_exit: int | None = Field(description="Exit code of the last of them; below zero: ended by that signal.")
    health: DetailedHealth | None = Field(description="Null when it does not answer.")


class DetailedWorkersHealth(DetailedHealth):
    """The supervisor and all its workers. Sizes are sums; what it depends on is as the worst-off worker sees it."""

    workers: list[WorkerHealth]


class MergedHealth:
    """The operations under `/health`, and `/ready`.

    The program is ready when at least one worker is: the kernel deals new connections only to workers that listen, so
    that one which is starting or has died takes none with it.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._started_wall = peers.clock.wall()
        self._started = peers.clock.monotonic()

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        return (
            Operation(
                "GET", "/health", "health", "Whether the supervisor lives. Costs nothing.", self.health,
                {200: Answer("It does.", Liveness)}, Empty, Anything, probe=True,
            ),
            Operation(
                "GET", "/ready", "ready", "Whether traffic should come: whether at least one worker is ready.",
                self.ready,
                {
                    200: Answer("It should.", WorkersReady),
                    503: Answer("It should not: no worker is ready, or the sidecar shuts down.", Problem),
                }, Empty, Anything, probe=True,
            ),
            Operation(
                "GET", "/health/detailed", "healthDetailed", "The processes and what they depend on.", self.detailed,
                {200: Answer("How they are.", DetailedWorkersHealth), **NONE_ANSWERS}, Empty, Anything,
            ),
            Operation(
                "GET", "/health/dependencies", "healthDependencies", "The upstream and the cache's second tier.",
                self.dependencies, {200: Answer("How they are.", Dependencies), **NONE_ANSWERS}, Empty, Anything,
            ),
        )  # fmt: skip

    async def health(self, _: Call[Empty, Anything]) -> Reply:
        """`GET /health`."""
        return Reply(Liveness())

    async def ready(self, _: Call[Empty, Anything]) -> Reply:
        """`GET /ready`."""
        workers, reasons = await self._states()
        if reasons:
            raise RefusedError(
                503, ", ".join(reasons), headers={"Retry-After": str(RETRY_AFTER_SECONDS)}, reasons=reasons
            )
        return Reply(WorkersReady(workers=[WorkerState(worker=name, state=state) for name, state in workers.items()]))

    async def detailed(self, _: Call[Empty, Anything]) -> Reply:
        """`GET /health/detailed`."""
        peers = self._peers
        (states, reasons), (documents, _silent) = await asyncio.gather(
            self._states(), ask_each(peers, "/health/detailed")
        )
        each = {name: DetailedHealth.model_validate(document) for name, document in documents.items()}
        dependencies = _worst([health.dependencies for health in each.values()])
        own_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Reply(
            DetailedWorkersHealth(
                status=dependencies.status if len(each) == len(peers.all) else "degraded",
                ready=not reasons,
                reasons=reasons,
                version=VERSION,
                python=platform.python_version(),
                event_loop=type(asyncio.get_running_loop()).__module__.partition(".")[0],
                pid=os.getpid(),
                started=moment(self._started_wall),
                uptime_seconds=peers.clock.monotonic() - self._started,
                max_rss_bytes=own_rss_bytes + sum(health.max_rss_bytes for health in each.values()),
                cached_records=sum(health.cached_records for health in each.values()),
                cached_bytes=sum(health.cached_bytes for health in each.values()),
                dependencies=dependencies,
                workers=[
                    WorkerHealth(
                        worker=peer.name,
                        state=states[peer.name],
                        pid=peer.pid,
                        restarts=peer.restarts,
                        last_exit=peer.last_exit,
                        health=each.get(peer.name),
                    )
                    for peer in peers.all
                ],
            )
        )

    async def dependencies(self, _: Call[Empty, Anything]) -> Reply:
        """`GET /health/dependencies`."""
        documents, _silent = await ask_each(self._peers, "/health/dependencies")
        return Reply(_worst([Dependencies.model_validate(document) for document in documents.values()]))

    async def _states(self) -> tuple[Mapping[str, State], list[str]]:
        """How each worker is, and why no traffic should come."""
        told: dict[str, Told] = {}
        silent: list[str] = []
        if not self._peers.draining:
            told, silent = await ask_all(
                self._peers.all, lambda peer: ask(peer, "GET", "/ready", seconds=PROBE_SECONDS)
            )
        states: dict[str, State] = {}
        for peer in self._peers.all:
            states[peer.name] = "silent" if peer.name in silent else peer.state
        if self._peers.draining:
            return states, ["shutting down"]
        if any(
            peer.state == "ready" and peer.name in told and told[peer.name].status == 200 for peer in self._peers.all
        ):
            return states, []
        if all(state == "starting" for state in states.values()):
            return states, ["starting"]
        return states, [f"worker {name} is {state}" for name, state in states.items()]


def _worst(seen: list[Dependencies]) -> Dependencies:
    """What the workers depend on, each as it looks to the worker that sees it worst."""

    def badness(dependency: Any) -> tuple[bool, datetime]:
        return dependency.state == DOWN, dependency.since

    l2s = [one.l2 for one in seen if one.l2 is not None]
    return Dependencies(
        status="degraded" if any(one.status == "degraded" for one in seen) else "ok",
        upstream=max((one.upstream for one in seen), key=badness),
        l2=max(l2s, key=badness) if l2s else None,
    )
