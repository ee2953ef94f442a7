"""L2 in an LMDB file: shared by the workers of one machine, bounded in bytes, alive across restarts.

Theory of operation. `records` maps a key's digest to a sequence number, `discard_at` and the encoded record; `order`
maps sequence numbers to digests. To make room the lowest numbers go: first in, first out. A record that is put again
moves to the end. LMDB cannot reuse the pages that a transaction frees before later ones, so a share of the file is kept
free, and transactions are small against it.

Records below `LARGE_BYTES` are read on the event loop: a look-up takes 1 µs when its pages are in memory, and
handing it to a thread takes 22 µs. A page that has to come from the disk holds the loop for that one read.
"""

import asyncio
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final

import lmdb
import structlog
from typing_extensions import override

from proxy.clock import Clock
from proxy.metrics.registry import Registry
from proxy.storage.base import CacheKey, Record
from proxy.storage.breaker import Breaker
from proxy.storage.codec import Look, decode, encode, look
from proxy.storage.lmdb_file import LmdbFile
from proxy.storage.packed import PackedEntry
from proxy.storage.second_tier import LATER, Batch, Later, SecondTier, TierFailedError
from proxy.tasks import Tasks

FILL: Final = 0.8
"""The share of the file that pages in use may take."""
TRANSACTION_SHARE: Final = 1 / 64
"""The share of the file that one transaction may write, unless one record alone is larger."""
EVICTED_AT_ONCE: Final = 64
LARGE_BYTES: Final = 128 * 1024
"""A record from this size on is read in a thread: checksum and copy of a megabyte take 1.5 ms."""

_PREFIX: Final = struct.Struct(">Qd")  # sequence number, discard_at
_PREFIX_BYTES: Final = _PREFIX.size
_SEQUENCE: Final = struct.Struct(">Q")
_PER_RECORD: Final = 128  # keys, page headers and the place in `order`
_log = structlog.get_logger("storage")


class _Unread(Enum):
    """Why a record that is there was not read."""

    LARGE = "large"
    BROKEN = "broken"


class LmdbStore(SecondTier):
    """L2 in an LMDB file.

    Args:
        path, max_bytes: see `LmdbFile`.
        max_object_bytes: a record that takes more bytes, encoded, is not written.
        probe_seconds: how often a file that failed, or could not be opened, is tried again.

    Attributes:
        file: the open file; None before `start`, after `close`, and while it cannot be used.
        evictions: how many records this process has removed to make room.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        tasks: Tasks,
        metrics: Registry,
        breaker: Breaker,
        *,
        max_bytes: int,
        max_object_bytes: int,
        probe_seconds: float,
    ) -> None:
        super().__init__("lmdb", clock, tasks, metrics, breaker, probe_seconds)
        self.file: LmdbFile | None = None
        self.evictions = 0
        self._path = path
        self._max_bytes = max_bytes
        self._max_object_bytes = max_object_bytes
        self._looks: list[float] = []  # seconds that those of this turn of the event loop took
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="lmdb-reader")

    @override
    async def close(self) -> None:
        await super().close()
        file, self.file = self.file, None
        await asyncio.to_thread(self._readers.shutdown)
        if file is not None:
            await file.close()

    @override
    async def _probe(self) -> None:
        if self.file is None:
            self.file = await asyncio.to_thread(LmdbFile, self._path, self._max_bytes)
            return
        await self.file.write(self.file.release_pages)

    @override
    def get_at_once(self, key: CacheKey) -> Record | Later | None:
        file = self._usable_file()
        if file is None:
            return None
        began = self._clock.monotonic()
        try:
            found = self._read(file, key.digest(), LARGE_BYTES)
        except lmdb.Error as error:
            self._count_failure(error)
            return None
        return LATER if found is _Unread.LARGE else self._counted(found, began)

    @override
    def look(self, key: CacheKey) -> Look | Later | None:
        file = self.file
        if file is None or not self.breaker.closed:
            return LATER
        began = self._clock.monotonic()
        try:
            txn = file.env.begin(file.records, None, False, True)  # buffers; by name it takes half as much again
            try:  # by `with` it takes another quarter
                value = txn.get(key.digest())
                file.seen = txn.id()
                found = look(value, _PREFIX_BYTES) if value is not None and len(value) <= LARGE_BYTES else None
            finally:
                txn.abort()
        except lmdb.Error:
            return LATER
        if found is None:
            return None if value is None else LATER
        looks = self._looks
        if not looks:
            asyncio.get_running_loop().call_soon(self._count_looks)
        looks.append(self._clock.monotonic() - began)
        return found

    def _count_looks(self) -> None:
        """Take note of a turn's looks: whoever asks after one of them for what was counted asks in a later turn."""
        looks, self._looks = self._looks, []
        if looks and self.breaker.closed:  # if it is open, what opened it came later
            self.breaker.succeeded(looks[-1])
        self.counters.latency.observe_all(looks)
        self.counters.hits.value += len(looks)

    @override
    async def get(self, key: CacheKey) -> Record | None:
        found = self.get_at_once(key)
        if not isinstance(found, Later):
            return found
        file = self._usable_file()
        if file is None:
            return None
        began = self._clock.monotonic()
        loop = asyncio.get_running_loop()
        try:
            read = await loop.run_in_executor(self._readers, self._read, file, key.digest(), sys.maxsize)
        except (lmdb.Error, RuntimeError) as error:  # RuntimeError: closed in the meantime
            self._count_failure(error)
            return None
        return self._counted(read, began)

    def _usable_file(self) -> LmdbFile | None:
        if self.file is None or not self.breaker.closed:
            self.counters.skipped.value += 1
            return None
        return self.file

    def _count_failure(self, error: Exception) -> None:
        self.counters.errors.value += 1
        self.breaker.failed(str(error))

    def _counted(self, found: Record | _Unread | None, began: float) -> Record | None:
        """What a read that began at a monotonic time has found."""
        latency = self._clock.monotonic() - began
        self.breaker.succeeded(latency)
        self.counters.latency.observe(latency)
        if isinstance(found, _Unread):
            self.counters.undecodable.value += 1
            found = None
        if found is None:
            self.counters.misses.value += 1
        else:
            self.counters.hits.value += 1
        return found

    def _read(self, file: LmdbFile, digest: bytes, max_bytes: int) -> Record | _Unread | None:
        with file.env.begin(db=file.records, buffers=True) as txn:
            value = txn.get(digest)
            if value is None:
                return None
            if len(value) > max_bytes:
                return _Unread.LARGE
            if len(value) < _PREFIX_BYTES:
                return _Unread.BROKEN
            _, discard_at = _PREFIX.unpack_from(value)
            if discard_at <= self._clock.wall():
                return None
            return decode(value[_PREFIX_BYTES:]) or _Unread.BROKEN

    @override
    async def write(self, batch: Batch) -> bool:
        file = self.file
        if file is None or not self.breaker.closed:
            self.counters.skipped.value += 1
            return False
        began = self._clock.monotonic()
        try:
            dropped = await file.write(partial(self._write_all, file, [*batch.items()]))
        except TierFailedError as error:
            self.counters.errors.value += 1
            self.breaker.failed(str(error))
            return False
        self.breaker.succeeded(self._clock.monotonic() - began)
        self.counters.writes.value += len(batch) - dropped
        self.counters.dropped.value += dropped
        return True

    @override
    def stats(self) -> dict[str, object]:
        self._count_looks()
        file = self.file
        if file is None:
            return super().stats()
        with file.env.begin() as txn:
            sizes = {"records": txn.stat(file.records)["entries"], "bytes": file.used_bytes(txn)}
        return {**super().stats(), **sizes, "max_bytes": file.max_bytes, "evictions": self.evictions}

    # In the writer's thread.

    def _write_all(self, file: LmdbFile, batch: list[tuple[CacheKey, Record | PackedEntry | None]]) -> int:
        """Bring about `batch`; how many records were too large."""
        limit = int(file.max_bytes * TRANSACTION_SHARE)
        chunk: list[tuple[bytes, float, bytes]] = []
        size = dropped = 0
        for key, record in batch:
            value = b"" if record is None else encode(record, key.primary)
            if len(value) > self._max_object_bytes:
                dropped += 1
                value = b""  # what stands there is older than what could not be written
            if chunk and size + len(value) > limit:
                self._write_some(file, chunk, size)
                chunk, size = [], 0
            chunk.append((key.digest(), 0.0 if record is None else record.discard_at, value))
            size += len(value) + _PER_RECORD
        if chunk:
            self._write_some(file, chunk, size)
        return dropped

    def _write_some(self, file: LmdbFile, chunk: list[tuple[bytes, float, bytes]], size: int) -> None:
        self._evict_until(file, int(file.max_bytes * FILL) - size)
        try:
            self._commit(file, chunk)
        except lmdb.MapFullError:
            # Free pages there are, but none in one piece large enough, or an old snapshot keeps them.
            self._evict_until(file, int(file.max_bytes * FILL / 2))
            file.release_pages()
            try:
                self._commit(file, chunk)
            except lmdb.MapFullError:
                self._clear(file)
                file.release_pages()
                self._commit(file, chunk)

    @staticmethod
    def _commit(file: LmdbFile, chunk: list[tuple[bytes, float, bytes]]) -> None:
        with file.env.begin(write=True, buffers=True) as txn:
            cursor = txn.cursor(file.order)
            sequence = _SEQUENCE.unpack(cursor.key())[0] if cursor.last() else 0
            for digest, discard_at, value in chunk:
                old = txn.get(digest, db=file.records)
                if old is not None:
                    txn.delete(bytes(old[: _SEQUENCE.size]), db=file.order)
                if value:
                    sequence += 1
                    txn.put(digest, _PREFIX.pack(sequence, discard_at) + value, db=file.records)
                    txn.put(_SEQUENCE.pack(sequence), digest, db=file.order, append=True)
                elif old is not None:
                    txn.delete(digest, db=file.records)

    def _evict_until(self, file: LmdbFile, target_bytes: int) -> None:
        """Remove the oldest records, in small transactions, until the pages in use are at most `target_bytes`."""
        while True:
            with file.env.begin(write=True) as txn:
                if file.used_bytes(txn) <= target_bytes:
                    return
                cursor = txn.cursor(file.order)
                for _ in range(EVICTED_AT_ONCE):
                    if not cursor.first():
                        return
                    txn.delete(cursor.value(), db=file.records)
                    cursor.delete()
                    self.evictions += 1

    def _clear(self, file: LmdbFile) -> None:
        _log.warning("the cache file is full and could not be freed: emptied", path=str(file.path))
        with file.env.begin(write=True) as txn:
            self.evictions += txn.stat(file.records)["entries"]
            txn.drop(file.records, delete=False)
            txn.drop(file.order, delete=False)
