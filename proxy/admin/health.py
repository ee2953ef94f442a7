"""Whether the process lives, whether traffic should come, and how what it depends on is."""

import asyncio
import os
import platform
import resource
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final, Literal

from pydantic import BaseModel, Field

from proxy.admin.operations import (
    Answer,
    AnyOperation,
    Anything,
    Call,
    Empty,
    Operation,
    Printable,
    Problem,
    RefusedError,
    Reply,
)
from proxy.admin.target import AdminTarget, DependencyHealth

VERSION: Final = version("sidecache")
DOWN: Final = "down"
RETRY_AFTER_SECONDS: Final = 1


def moment(wall: float) -> datetime:
    """Wall seconds as a time that is written as RFC 3339 says."""
    return datetime.fromtimestamp(wall, UTC)


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Traffic may come."""

    status: Literal["ready"] = "ready"


class Dependency(BaseModel):
    """How something is that the sidecar depends on."""

    kind: str = Field(description="`upstream`, or what the second tier is: `lmdb` or `redis`.")
    state: str = Field(description="`down` when it is out of order.")
    since: datetime = Field(description="When the state began.")
    latency_seconds: float | None = Field(description="How long the last call that succeeded took.")
    last_error: Printable | None = Field(description="The last failure, whether or not it is over.")
    last_error_at: datetime | None


class Dependencies(BaseModel):
    """Everything that the sidecar depends on. It serves what it can while one is down."""

    status: Literal["ok", "degraded"]
    upstream: Dependency
    l2: Dependency | None = Field(description="The cache's second tier; null where there is none.")


class DetailedHealth(BaseModel):
    """The process and what it depends on."""

    status: Literal["ok", "degraded"]
    ready: bool
    reasons: list[str] = Field(description="Why it is not ready.")
    version: str
    python: str
    event_loop: str
    pid: int
    started: datetime
    uptime_seconds: float
    max_rss_bytes: int = Field(description="The most memory that the process ever had resident.")
    cached_records: int = Field(description="Records in memory.")
    cached_bytes: int = Field(description="What they weigh.")
    dependencies: Dependencies


class Health:
    """The operations under `/health`, and `/ready`."""

    def __init__(self, target: AdminTarget) -> None:
        self._target = target
        self._started_wall = target.clock.wall()
        self._started = target.clock.monotonic()

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        return (
            Operation(
                "GET", "/health", "health", "Whether the process lives. Costs nothing.", self.health,
                {200: Answer("It does.", Liveness)}, Empty, Anything, probe=True,
            ),
            Operation(
                "GET", "/ready", "ready", "Whether traffic should come.", self.ready,
                {
                    200: Answer("It should.", Readiness),
                    503: Answer("It should not: the sidecar starts or shuts down.", Problem),
                }, Empty, Anything, probe=True,
            ),
            Operation(
                "GET", "/health/detailed", "healthDetailed", "The process and what it depends on.", self.detailed,
                {200: Answer("How it is.", DetailedHealth)}, Empty, Anything,
            ),
            Operation(
                "GET", "/health/dependencies", "healthDependencies", "The upstream and the cache's second tier.",
                self.dependencies, {200: Answer("How they are.", Dependencies)}, Empty, Anything,
            ),
        )  # fmt: skip

    async def health(self, _: Call[Empty, Anything]) -> Reply:
        """`GET /health`."""
        return Reply(Liveness())

    async def ready(self, _: Call[Empty, Anything]) -> Reply:
        """`GET /ready`."""
        reasons = list(self._target.not_ready())
        if reasons:
            raise RefusedError(
                503, ", ".join(reasons), headers={"Retry-After": str(RETRY_AFTER_SECONDS)}, reasons=reasons
            )
        return Reply(Readiness())

    async def detailed(self, _: Call[Empty, Anything]) -> Reply:
        """`GET /health/detailed`."""
        target, loop = self._target, asyncio.get_running_loop()
        reasons = list(target.not_ready())
        dependencies = self._dependencies()
        return Reply(
            DetailedHealth(
                status=dependencies.status,
                ready=not reasons,
                reasons=reasons,
                version=VERSION,
                python=platform.python_version(),
                event_loop=type(loop).__module__.partition(".")[0],
                pid=os.getpid(),
                started=moment(self._started_wall),
                uptime_seconds=target.clock.monotonic() - self._started,
                max_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                cached_records=len(target.store.l1),
                cached_bytes=target.store.l1.bytes,
                dependencies=dependencies,
            )
        )

    async def dependencies(self, _: Call[Empty, Anything]) -> Reply:
        """`GET /health/dependencies`."""
        return Reply(self._dependencies())

    def _dependencies(self) -> Dependencies:
        target = self._target
        upstream = _dependency("upstream", target.upstream_health)
        tier, tier_health = target.store.l2, target.store.health()
        l2 = _dependency(tier.name, tier_health) if tier is not None and tier_health is not None else None
        down = upstream.state == DOWN or (l2 is not None and l2.state == DOWN)
        return Dependencies(status="degraded" if down else "ok", upstream=upstream, l2=l2)


def _dependency(kind: str, health: DependencyHealth) -> Dependency:
    return Dependency(
        kind=kind,
        state=str(health.state.value),
        since=moment(health.since),
        latency_seconds=health.last_latency_seconds,
        last_error=health.last_error,
        last_error_at=moment(health.last_error_at) if health.last_error_at is not None else None,
    )
