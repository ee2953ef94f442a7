"""Every second tier and every invalidation log, ready for use, on servers that the whole test session shares."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from proxy.clock import Clock
from proxy.metrics.registry import Registry
from proxy.storage.breaker import Breaker
from proxy.storage.invalidation_log import InvalidationLog
from proxy.storage.lmdb import LmdbStore
from proxy.storage.lmdb_log import LmdbLog
from proxy.storage.memory import MemoryStore
from proxy.storage.memory_log import MemoryLog
from proxy.storage.purge_index import MAX_PURGES
from proxy.storage.redis import RedisStore
from proxy.storage.redis_log import RedisLog
from proxy.storage.redis_url import parse_redis_url
from proxy.storage.second_tier import SecondTier
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from tests.support.redis_server import RedisServer, redis_cluster, redis_sentinel

REDIS_KINDS: Final = ("redis", "redis-socket", "redis-sentinel", "redis-cluster")
L2_KINDS: Final = ("lmdb", *REDIS_KINDS)

_prefixes = itertools.count()


class RedisServers:
    """Servers of each kind, started when first asked for, ended with the session. Tests use prefixes of their own."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._urls: dict[str, str] = {}

    def url(self, kind: str) -> str:
        """The URL of a server of `kind`."""
        if kind not in self._urls:
            self._urls |= self._start(kind)
        return self._urls[kind]

    def _start(self, kind: str) -> dict[str, str]:
        if kind == "redis-cluster":
            nodes = self._stack.enter_context(redis_cluster())
            return {kind: "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)}
        if kind == "redis-sentinel":
            return {kind: self._stack.enter_context(redis_sentinel()).url}
        server = self._stack.enter_context(RedisServer())
        return {"redis": server.url, "redis-socket": f"unix://{server.socket}"}

    def close(self) -> None:
        self._stack.close()


@dataclass
class Backends:
    """Makes stores and logs that are closed when the test ends.

    Attributes:
        prefix: of the keys in Redis; two stores of one test share what they hold.
    """

    clock: Clock
    servers: RedisServers
    directory: Path
    tasks: Tasks = field(default_factory=Tasks)
    metrics: Registry = field(default_factory=Registry)
    prefix: str = field(default_factory=lambda: f"test{next(_prefixes)}")
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    def url(self, kind: str) -> str:
        """Where the Redis of `kind` is."""
        return self.servers.url(kind)

    async def lmdb(self, *, max_bytes: int = 64 * 2**20, **options: float) -> LmdbStore:
        """A started store in the test's LMDB file."""
        breaker = Breaker("lmdb", self.clock, max_failures=3)
        max_object_bytes = int(options.get("max_object_bytes", 8 * 2**20))
        store = LmdbStore(
            self.directory / "cache.mdb",
            self.clock,
            self.tasks,
            Registry(),
            breaker,
            max_bytes=max_bytes,
            max_object_bytes=max_object_bytes,
            probe_seconds=options.get("probe_seconds", 0.05),
        )
        self.stack.push_async_callback(store.close)
        await store.start()
        return store

    async def redis(self, url: str, **options: float) -> RedisStore:
        """A started store in the Redis at `url`."""
        breaker = Breaker("redis", self.clock, max_failures=int(options.get("max_failures", 3)))
        store = RedisStore(
            parse_redis_url(url),
            self.clock,
            self.tasks,
            Registry(),
            breaker,
            prefix=self.prefix,
            # Long: a test machine under load answers late. Tests of time-outs set their own.
            timeout_seconds=options.get("timeout_seconds", 5.0),
            max_object_bytes=int(options.get("max_object_bytes", 8 * 2**20)),
            probe_seconds=options.get("probe_seconds", 0.05),
        )
        self.stack.push_async_callback(store.close)
        await store.start()
        return store

    async def second_tier(self, kind: str) -> SecondTier:
        """A started store of `kind`, one of `L2_KINDS`."""
        return await self.lmdb() if kind == "lmdb" else await self.redis(self.url(kind))

    async def memory_log(self, *, max_purges: int = MAX_PURGES) -> MemoryLog:
        return MemoryLog(self.clock, max_purges=max_purges)

    async def lmdb_log(self, store: LmdbStore, *, max_purges: int = MAX_PURGES, started: bool = True) -> LmdbLog:
        """A log in the file of `store`."""
        log = LmdbLog(lambda: store.file, self.clock, self.tasks, timeout_seconds=5.0, max_purges=max_purges)
        self.stack.push_async_callback(log.close)
        if started:
            await log.start()
        return log

    async def redis_log(
        self, url: str, *, max_purges: int = MAX_PURGES, timeout_seconds: float = 5.0, started: bool = True
    ) -> RedisLog:
        """A log in the Redis at `url`."""
        log = RedisLog(
            parse_redis_url(url),
            self.clock,
            self.tasks,
            prefix=self.prefix,
            timeout_seconds=timeout_seconds,
            max_purges=max_purges,
        )
        self.stack.push_async_callback(log.close)
        if started:
            await log.start()
        return log

    async def tiered(
        self, l2: SecondTier | None, log: InvalidationLog, *, l1_bytes: int = 10**7, started: bool = True
    ) -> TieredStore:
        """The tiers, with an L1 of their own."""
        store = TieredStore(MemoryStore(l1_bytes, self.clock), l2, log, self.clock, self.tasks, Registry())
        self.stack.push_async_callback(store.close)
        if started:
            await store.start()
        return store

    async def close(self) -> None:
        await self.stack.aclose()
        await self.tasks.close()


@pytest.fixture(scope="session")
def redis_servers() -> Iterator[RedisServers]:
    servers = RedisServers()
    yield servers
    servers.close()


@contextlib.asynccontextmanager
async def backends(clock: Clock, servers: RedisServers, directory: Path) -> AsyncIterator[Backends]:
    """A `Backends` that is closed at the end."""
    made = Backends(clock, servers, directory)
    try:
        yield made
    finally:
        await made.close()
