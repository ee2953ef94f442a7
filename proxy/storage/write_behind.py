"""Writes to L2 off the request's path: bounded, in order per key, the newest of a key alone."""

import asyncio
from typing import Final

from proxy.storage.base import CacheKey, Entry, Record
from proxy.storage.packed import PackedEntry
from proxy.storage.second_tier import SecondTier
from proxy.tasks import Tasks
from proxy.values import value

MAX_WAITING_RECORDS: Final = 10_000
MAX_WAITING_BYTES: Final = 32 * 1024 * 1024
MAX_BATCH_RECORDS: Final = 64
"""A purge in LMDB waits for the batch that is being written. At 3,000 new keys a second and 256 records that took 86 ms
in the median, most of it the writing thread's waiting for the interpreter; 18 with 64, at no cost that could be seen.
"""
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
RETRY_SECONDS: Final = 1.0


@value
class Waiting:
    """What is to stand in L2; None: nothing."""

    record: Record | PackedEntry | None
    size: int


class WriteBehind:
    """The records on their way to L2.

    A put that finds no room is dropped. A delete is not: it would let an older record come back; deletes that L2 does
    not take are kept and tried again, the oldest given up only when there are `MAX_WAITING_RECORDS` of them.

    Args:
        l2: where they go.
        tasks: where the writer runs.
    """

    def __init__(self, l2: SecondTier, tasks: Tasks) -> None:
        self._l2 = l2
        self._tasks = tasks
        self._waiting: dict[CacheKey, Waiting] = {}
        self._going: dict[CacheKey, Waiting] = {}
        self._bytes = 0
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._writer: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Begin to write."""
        self._writer = self._tasks.start("store write-behind", self._write())

    def waiting(self, key: CacheKey) -> Waiting | None:
        """What L2 does not have yet for `key`; None: L2 is to be asked."""
        return self._waiting.get(key) or self._going.get(key)

    def add(self, key: CacheKey, record: Record | PackedEntry | None) -> None:
        """Have `record` written under `key`, in place of what waits for this key; None: have the key deleted."""
        old = self._waiting.pop(key, None)
        if old is not None:
            self._bytes -= old.size
        size = _size(record)
        if record is not None and (self._full(size) or not self._l2.breaker.closed):
            self._l2.counters.dropped.value += 1
            record, size = None, 0  # what L2 has under this key is older than what was to be written: better nothing
        self._waiting[key] = Waiting(record, size)
        self._bytes += size
        if len(self._waiting) > MAX_WAITING_RECORDS:
            oldest = next(iter(self._waiting))
            self._bytes -= self._waiting.pop(oldest).size
            self._l2.counters.dropped.value += 1
        self._settled.clear()
        self._wake.set()

    def _full(self, size: int) -> bool:
        return len(self._waiting) >= MAX_WAITING_RECORDS or self._bytes + size > MAX_WAITING_BYTES

    async def flush(self) -> None:
        """Wait until nothing waits that L2 would take."""
        self._wake.set()
        await self._settled.wait()

    async def close(self) -> None:
        """Write what waits, once, and stop."""
        if self._writer is None:
            return
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._writer})
        self._writer = None

    def stats(self) -> dict[str, object]:
        """Plain numbers for the admin port."""
        return {"waiting_writes": len(self._waiting) + len(self._going), "waiting_bytes": self._bytes}

    async def _write(self) -> None:
        while True:
            while self._waiting:
                if not await self._write_some():
                    break
            self._settled.set()
            if self._closing:
                return
            await self._pause()

    async def _pause(self) -> None:
        if not self._waiting:
            self._wake.clear()
            await self._wake.wait()
            return
        # L2 did not take it: again when it may have come back, or when the store closes.
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                while not self._closing:
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            pass

    async def _write_some(self) -> bool:
        """Write one batch; whether L2 took it."""
        batch: dict[CacheKey, Waiting] = {}
        size = 0
        for key, waiting in self._waiting.items():
            if len(batch) == MAX_BATCH_RECORDS or (batch and size + waiting.size > MAX_BATCH_BYTES):
                break
            batch[key] = waiting
            size += waiting.size
        for key in batch:
            del self._waiting[key]
        self._going = batch
        written = await self._l2.write({key: waiting.record for key, waiting in batch.items()})
        self._going = {}
        self._bytes -= size
        if not written:
            self._keep_deletes(batch)
        return written

    def _keep_deletes(self, batch: dict[CacheKey, Waiting]) -> None:
        """After a failure: what could not be written must not leave an older record to be found."""
        kept: dict[CacheKey, Waiting] = {}
        for key, waiting in batch.items():
            if waiting.record is not None:
                self._l2.counters.dropped.value += 1
            kept[key] = Waiting(None, 0)
        self._waiting = kept | self._waiting
        while len(self._waiting) > MAX_WAITING_RECORDS:
            oldest = next(iter(self._waiting))
            self._bytes -= self._waiting.pop(oldest).size


def _size(record: Record | PackedEntry | None) -> int:
    """About the bytes that `record` keeps in memory while it waits."""
    if record is None:
        return 0
    if isinstance(record, Entry | PackedEntry):
        return 1000 + len(record.body) + sum(map(len, record.forms.values()))
    return 300
