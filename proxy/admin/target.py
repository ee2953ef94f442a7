"""What the admin port reads and does, as the program offers it to this layer."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from proxy.clock import Clock
from proxy.http.message import Request, Response
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import Exchange, Outcome
from proxy.pipeline.pipeline import Pipeline
from proxy.storage.tiered import TieredStore


class ReloadReport(BaseModel):
    """What a reload brought about: names of tables of the configuration."""

    model_config = ConfigDict(frozen=True)

    changed: list[str] = Field(description="Tables that differ from before.")
    restart_needed: list[str] = Field(description="Tables that differ from those in effect, and wait for a restart.")


class ReloadError(Exception):
    """The new configuration is good in itself and cannot be put into use here. The old one stays; the text says why."""


class DependencyHealth(Protocol):
    """How something is that the sidecar depends on. `proxy.storage.breaker.TierHealth` is one."""

    @property
    def state(self) -> Enum:
        """A member whose value is a word; `down` when it is out of order."""
        ...

    @property
    def since(self) -> float:
        """Wall seconds when the state began."""
        ...

    @property
    def last_error(self) -> str | None:
        """The last failure, whether or not it is over."""
        ...

    @property
    def last_error_at(self) -> float | None:
        """Wall seconds of it."""
        ...

    @property
    def last_latency_seconds(self) -> float | None:
        """How long the last call that succeeded took."""
        ...


class AdminTarget(Protocol):
    """The running program. Properties are read anew at each call: a reload replaces what stands behind them."""

    @property
    def clock(self) -> Clock:
        """The program's clock."""
        ...

    @property
    def metrics(self) -> Registry:
        """Every metric."""
        ...

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline that answers now."""
        ...

    @property
    def store(self) -> TieredStore:
        """The cache's tiers, and the invalidation log."""
        ...

    @property
    def upstream_health(self) -> DependencyHealth:
        """The upstream as seen from here, now."""
        ...

    @property
    def fast_lane(self) -> dict[str, int] | None:
        """What the answers kept ready to be given again are and did: see `PipelineStats`; None: none are kept."""
        ...

    def settle(self) -> None:
        """Bring everything that is counted up to date. Called before each answer of the admin port."""
        ...

    def not_ready(self) -> tuple[str, ...]:
        """Why no traffic should come; empty when it should."""
        ...

    def config_view(self) -> Mapping[str, Any]:
        """The effective configuration as JSON values, secrets masked."""
        ...

    async def handle(self, request: Request, *, request_id: str) -> tuple[Exchange, Response]:
        """Answer `request` as if a client had sent it. `complete` is owed for the exchange.

        Raises:
            asyncio.CancelledError: the caller gave up; the exchange has been completed.
        """
        ...

    def complete(self, exchange: Exchange, outcome: Outcome) -> None:
        """Tell the plugins how the exchange ended."""
        ...

    async def reload(self) -> ReloadReport:
        """Read the configuration again and put it into use, whole or not at all.

        Raises:
            ConfigError: it is bad; carries every mistake. The old one stays.
            ReloadError: it cannot be put into use. The old one stays.
        """
        ...
