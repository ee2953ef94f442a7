"""The real cache over its real tiers, one or two of it before one origin, on an event loop that a test steps."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from plugins.cache import Cache, CacheSettings
from proxy.http.message import Request
from proxy.metrics.registry import Registry
from proxy.storage.base import CacheKey, Record
from proxy.storage.breaker import Breaker
from proxy.storage.lmdb import LmdbStore
from proxy.storage.memory import MemoryStore
from proxy.storage.memory_log import MemoryLog
from proxy.storage.packed import PackedEntry, unpack
from proxy.storage.second_tier import Batch, SecondTier, TierFailedError
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from tests.support.clock import FakeClock
from tests.support.plugin_harness import Answered, PluginHarness, harness

PROBE_SECONDS = 3600.0
"""Never: the test says when L2 is back."""


class DictTier(SecondTier):
    """An L2 in a dict that may be shared."""

    down = False

    def __init__(self, held: dict[CacheKey, Record], clock: FakeClock, tasks: Tasks) -> None:
        super().__init__("dict", clock, tasks, Registry(), Breaker("dict", clock, max_failures=1), PROBE_SECONDS)
        self._held = held

    @override
    async def _probe(self) -> None:
        if self.down:
            raise TierFailedError("down")

    @override
    async def get(self, key: CacheKey) -> Record | None:
        if self.down or not self.breaker.closed:
            self.breaker.failed("down")
            return None
        record = self._held.get(key)
        await asyncio.sleep(0)  # on its way: what happens now, the answer does not know
        return record

    @override
    async def write(self, batch: Batch) -> bool:
        await asyncio.sleep(0)
        if self.down or not self.breaker.closed:
            self.breaker.failed("down")
            return False
        for key, record in batch.items():
            if record is None:
                self._held.pop(key, None)
            else:
                self._held[key] = unpack(record, key.primary) if isinstance(record, PackedEntry) else record
        return True


class FailingLmdb(LmdbStore):
    """An LMDB file that can be out of reach."""

    down = False

    @override
    async def get(self, key: CacheKey) -> Record | None:
        if self.down:
            self.breaker.failed("down")
            return None
        return await super().get(key)

    @override
    async def write(self, batch: Batch) -> bool:
        if self.down:
            self.breaker.failed("down")
            return False
        return await super().write(batch)


@dataclass
class Sidecar:
    """One sidecar: its pipeline is nothing but the cache."""

    running: PluginHarness
    store: TieredStore
    l2: DictTier | FailingLmdb | None


class Site:
    """The sidecars, and the loop on which they run.

    Args:
        l2: none, dict (two sidecars share it) or lmdb.
        directory: for the LMDB file.
        script: the origin, by the number of the sidecar.
    """

    def __init__(self, l2: str, directory: Path, clock: FakeClock, script: Callable[[int], Any]) -> None:
        self._runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._directory = directory
        self._clock = clock
        self.log = MemoryLog(clock)
        self._held: dict[CacheKey, Record] = {}
        self.sidecars: list[Sidecar] = []
        count = 2 if l2 == "dict" else 1
        self._runner.run(self._start(l2, [script(number) for number in range(count)]))

    async def _start(self, l2: str, scripts: list[Any]) -> None:
        for script in scripts:
            tasks = Tasks()
            tier: DictTier | FailingLmdb | None = None
            if l2 == "dict":
                tier = DictTier(self._held, self._clock, tasks)
            elif l2 == "lmdb":
                tier = FailingLmdb(
                    self._directory / "cache.mdb",
                    self._clock,
                    tasks,
                    Registry(),
                    Breaker("lmdb", self._clock, max_failures=1),
                    max_bytes=8 << 20,
                    max_object_bytes=1 << 20,
                    probe_seconds=PROBE_SECONDS,
                )
            store = TieredStore(MemoryStore(1 << 22, self._clock), tier, self.log, self._clock, tasks, Registry())
            await store.start()
            self._stack.push_async_callback(tasks.close)
            self._stack.push_async_callback(store.close)
            running = await self._stack.enter_async_context(
                harness(
                    lambda services: [Cache(CacheSettings(), services)],
                    script,
                    clock=self._clock,
                    store=store,
                    invalidations=self.log,
                )
            )
            self.sidecars.append(Sidecar(running, store, tier))

    def close(self) -> None:
        """End everything."""
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def run(self, work: Any) -> Any:
        """Run `work` to its end."""
        return self._runner.run(work)

    def send(self, sidecar: int, request: Request) -> "asyncio.Task[Answered]":
        """Send `request`, and go on until nothing moves any more."""
        task = self._runner.get_loop().create_task(self.sidecars[sidecar].running.send(request))
        self.settle()
        return task

    def settle(self) -> None:
        """Let everything that can go on do so."""
        self._runner.run(_settle())

    def flush(self, sidecar: int) -> None:
        """Wait for what is on its way to L2."""
        self._runner.run(self.sidecars[sidecar].store.flush())

    def set_l2(self, *, down: bool) -> None:
        """Take L2 away, or give it back."""
        for sidecar in self.sidecars:
            if sidecar.l2 is None:
                continue
            sidecar.l2.down = down
            if down:
                sidecar.l2.breaker.failed("down", fatal=True)
            else:
                sidecar.l2.breaker.succeeded(0.0)


async def _settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)
