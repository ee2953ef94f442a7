"""What the cache holds and did, and purges."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

import structlog
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from proxy.admin.health import moment
from proxy.admin.operations import Answer, AnyOperation, Call, Empty, Input, Operation, Reply, Some
from proxy.admin.pipeline import CACHE
from proxy.admin.target import AdminTarget
from proxy.admin.urls import parse_prefix, parse_url
from proxy.storage.invalidation_log import Appended, Purge, PurgeScope
from proxy.storage.tiered import TieredStore

MAX_TAGS: Final = 1000
SCOPES: Final = ("key", "url", "prefix", "tag", "tags", "all")

_log = structlog.get_logger("admin")

Share = Annotated[float, Field(ge=0, le=1)]


class HitRatios(BaseModel):
    """Answers from the cache per request over the last minutes; null where there were no requests."""

    one_minute: Share | None = Field(alias="1m")
    five_minutes: Share | None = Field(alias="5m")
    fifteen_minutes: Share | None = Field(alias="15m")


class Recent(BaseModel):
    """What a hit ratio was made of."""

    hits: NonNegativeInt
    requests: NonNegativeInt


class RouteStats(BaseModel):
    """What became of a route's requests at the cache, since the start."""

    model_config = ConfigDict(extra="allow")

    # The plugin counts by `CacheResult`, whose values are its keys.
    hits: NonNegativeInt = Field(validation_alias=AliasChoices("hits", "hit"))
    misses: NonNegativeInt = Field(validation_alias=AliasChoices("misses", "miss"))
    stale: NonNegativeInt
    revalidated: NonNegativeInt
    bypass: NonNegativeInt
    bytes: NonNegativeInt = Field(description="Body bytes sent from the cache.")
    hit_ratio: HitRatios
    recent: dict[str, Recent] = Field(description="The counts that the hit ratios are made of.")
    reasons: dict[str, NonNegativeInt] = Field(
        description="Why requests were not answered from the cache, the most frequent first."
    )


class MemoryTier(BaseModel):
    """The first tier: records in this process."""

    model_config = ConfigDict(extra="allow")

    records: NonNegativeInt
    bytes: NonNegativeInt
    max_bytes: NonNegativeInt
    hits: NonNegativeInt
    misses: NonNegativeInt
    evictions: NonNegativeInt
    hit_ratio: Share | None = Field(description="Of look-ups since the start; null before the first.")


class SecondTierStats(BaseModel):
    """The second tier. What else it counts depends on its kind."""

    model_config = ConfigDict(extra="allow")

    kind: str
    state: str
    hits: NonNegativeInt
    misses: NonNegativeInt
    errors: NonNegativeInt
    timeouts: NonNegativeInt
    last_latency_seconds: NonNegativeFloat | None


class Tiers(BaseModel):
    """Where responses are kept."""

    l1: MemoryTier
    l2: SecondTierStats | None = Field(description="Null where there is none.")


class CacheStats(BaseModel):
    """What the cache holds and did."""

    tiers: Tiers
    invalidations: dict[str, Any] = Field(description="The invalidation log.")
    routes: dict[str, RouteStats] = Field(description="Routes that had requests, by name.")


def _true(value: bool) -> bool:
    # `Literal[True]` would take 1 for it.
    if not value:
        raise ValueError("only true makes sense here")
    return value


def _url(text: str) -> str:
    return parse_url(text).url


Text = Annotated[str, StringConstraints(min_length=1, max_length=16_384)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class PurgeOrder(Input):
    """What is to be purged: exactly one of `key`, `url`, `prefix`, `tag`, `tags` and `all`."""

    key: Text | None = Field(default=None, description="A primary cache key: `GET http://api.example/items`.")
    url: Annotated[Text, AfterValidator(_url)] | None = Field(
        default=None, description="An absolute URL: every method and variant of it."
    )
    prefix: Annotated[Text, AfterValidator(parse_prefix)] | None = Field(
        default=None, description="The beginning of absolute URLs, up to some place in their path."
    )
    tag: Tag | None = Field(default=None, description="A tag that the origin gave responses.")
    tags: Annotated[Some[Tag], Field(max_length=MAX_TAGS)] | None = Field(
        default=None, description="Several tags: responses that have any of them."
    )
    all: Annotated[bool, AfterValidator(_true), WithJsonSchema({"const": True})] | None = Field(
        default=None, description="Everything."
    )
    soft: bool = Field(
        default=False, description="Make stale instead of dropping: usable where stale responses are, and revalidated."
    )

    @model_validator(mode="after")
    def _one_scope(self) -> Self:
        given = [scope for scope in SCOPES if getattr(self, scope) is not None]
        if len(given) != 1:
            listed = ", ".join(given) or "none of them"
            raise PydanticCustomError("scopes", f"expected exactly one of {', '.join(SCOPES)}, not {listed}")
        return self

    def purges(self) -> Iterator[tuple[PurgeScope, str]]:
        """Scope and value of each record to append."""
        if self.key is not None:
            yield PurgeScope.KEY, self.key
        elif self.url is not None:
            yield PurgeScope.URL, self.url
        elif self.prefix is not None:
            yield PurgeScope.PREFIX, self.prefix
        elif self.all:
            yield PurgeScope.ALL, ""
        else:
            for tag in dict.fromkeys(self.tags or (self.tag or "",)):
                yield PurgeScope.TAG, tag


class PurgeDone(BaseModel):
    """What one purge did."""

    id: str = Field(description="Of the record in the invalidation log.")
    scope: Literal["key", "url", "prefix", "tag", "all"]
    value: str = Field(description="As the log has it; empty for everything.")
    soft: bool
    at: datetime
    shared: bool = Field(
        description="It reached the log that all sidecars read. If not, it holds here and is sent on as soon as can be."
    )
    dropped: NonNegativeInt = Field(
        description="Records dropped from memory here. A second tier's are void too, and found so when they are read."
    )
    softened: NonNegativeInt = Field(description="Records in memory here that were made stale.")


class PurgesDone(BaseModel):
    """What was done."""

    status: Literal["shared", "pending"] = Field(description="`pending`: some have not reached the shared log yet.")
    purges: list[PurgeDone]


class Tally:
    """How many records in memory each purge touched, counted while someone wants to know.

    The store applies a purge before this does: it has subscribed to the log first.

    Args:
        remembered: of how many purges the counts are kept all the time, for those that come through a shared log
            before somebody asks.
    """

    __slots__ = ("_before", "_counts", "_remembered", "_store", "_watchers")

    def __init__(self, store: TieredStore, *, remembered: int = 0) -> None:
        self._store = store
        self._remembered = remembered
        self._watchers = 0
        self._before = self._totals()
        self._counts: dict[int, tuple[int, int]] = {}
        store.log.subscribe(self._applied)

    def _totals(self) -> tuple[int, int]:
        l1: Any = self._store.stats()["l1"]
        return l1["purged"], l1["softened"]

    def _applied(self, purge: Purge | None) -> None:
        if not self._watchers and not self._remembered:
            return
        now, before = self._totals(), self._before
        self._before = now
        if purge is not None:
            self._counts[purge.id] = (now[0] - before[0], now[1] - before[1])
        if not self._watchers:
            self._forget()

    async def append(self, scope: PurgeScope, value: str, *, soft: bool) -> tuple[Appended, int, int]:
        """Append a purge; what became of it, and how many records it dropped and softened here."""
        async with self._watching():
            appended = await self._store.log.append(scope, value, soft=soft)
            return appended, *self._counts.get(appended.purge.id, (0, 0))

    async def adopt(self, appended: Appended) -> tuple[int, int]:
        """Apply a purge that another process appended; how many records it dropped and softened here."""
        async with self._watching():
            purge = await self._store.log.adopt(appended)
            return self._counts.get(purge.id, (0, 0))

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        if not self._watchers and not self._remembered:  # else it is up to date: only purges change it
            self._before = self._totals()
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._forget()

    def _forget(self) -> None:
        while len(self._counts) > self._remembered:
            del self._counts[next(iter(self._counts))]


class CacheControls:
    """Stats of the cache, and purges."""

    def __init__(self, target: AdminTarget) -> None:
        self._target = target
        self._tally = Tally(target.store)

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        return (
            Operation(
                "GET", "/admin/cache/stats", "cacheStats", "What the cache holds and did, per tier and per route.",
                self.stats, {200: Answer("The figures.", CacheStats)}, Empty, Empty,
            ),
            Operation(
                "POST", "/admin/cache/invalidate", "cacheInvalidate", "Purge by key, URL, prefix, tag, or everything.",
                self.invalidate, {200: Answer("It holds here; see `status`.", PurgesDone)}, PurgeOrder, Empty,
            ),
        )  # fmt: skip

    async def stats(self, _: Call[Empty, Empty]) -> Reply:
        """`GET /admin/cache/stats`."""
        tiers: Any = self._target.store.stats()
        l1 = dict(tiers["l1"])
        looked_up = l1["hits"] + l1["misses"]
        l1["hit_ratio"] = l1["hits"] / looked_up if looked_up else None
        routes: dict[str, Any] = {}
        for plugin in self._target.pipeline.plugins:
            if plugin.name == CACHE:
                counted: Any = plugin.stats().get("routes", {})
                routes.update(counted)
        return Reply(
            CacheStats.model_validate(
                {"tiers": {"l1": l1, "l2": tiers["l2"]}, "invalidations": tiers["invalidations"], "routes": routes}
            )
        )

    async def invalidate(self, call: Call[PurgeOrder, Empty]) -> Reply:
        """`POST /admin/cache/invalidate`."""
        done: list[PurgeDone] = []
        for scope, value in call.body.purges():
            appended, dropped, softened = await self._tally.append(scope, value, soft=call.body.soft)
            purge = appended.purge
            _log.info("purged", scope=scope.value, value=value, soft=purge.soft, id=purge.id, shared=appended.shared)
            done.append(
                PurgeDone(
                    id=str(purge.id),  # beyond the 53 bits that a number in JSON keeps in many languages
                    scope=purge.scope.value,
                    value=purge.value,
                    soft=purge.soft,
                    at=moment(purge.at),
                    shared=appended.shared,
                    dropped=dropped,
                    softened=softened,
                )
            )
        return Reply(PurgesDone(status="shared" if all(one.shared for one in done) else "pending", purges=done))
