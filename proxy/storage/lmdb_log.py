"""The invalidation log in the LMDB file: it outlives restarts, and the workers of one machine follow it.

Theory of operation. Each transaction has a number, and whoever reads sees which one is the last that it reads as of.
While that is the one as of which the log was read to its end, there is no news: to see that takes a comparison, and a
read of L2 has just asked.
"""

import asyncio
import struct
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Final

import lmdb
import structlog
from typing_extensions import override

from proxy.clock import Clock
from proxy.storage.base import PurgeId
from proxy.storage.invalidation_log import Purge, dump_purge, load_purge
from proxy.storage.lmdb_file import LmdbFile
from proxy.storage.purge_index import MAX_PURGES
from proxy.storage.second_tier import TierFailedError
from proxy.storage.shared_log import SharedLog, purge_id
from proxy.storage.stopping import stop
from proxy.tasks import Tasks

FOLLOW_SECONDS: Final = 0.05
"""How often a worker looks whether another one has appended; a look without news costs 0.5 µs. A read of L2 looks
too."""

LOG_SHARE: Final = 0.2
"""The share of the file that purges may take."""
BYTES_PER_PURGE: Final = 400

_FLOOR_KEY: Final = b"purge floor"
_ID: Final = struct.Struct(">Q")
_log = structlog.get_logger("storage")


class LmdbLog(SharedLog):
    """The log in an LMDB file. Without a usable file it is a log in memory whose purges wait.

    Args:
        file: what gives the open file, or None while it cannot be used.
        max_purges: how many are kept, each scope, value and hardness once.
    """

    def __init__(
        self,
        file: Callable[[], LmdbFile | None],
        clock: Clock,
        tasks: Tasks,
        *,
        timeout_seconds: float,
        max_purges: int = MAX_PURGES,
    ) -> None:
        super().__init__(clock, tasks, timeout_seconds=timeout_seconds, max_purges=max_purges)
        self._file = file
        self._max_purges = max_purges
        self._read_to: PurgeId = 0
        # The file, and its last transaction, as of which it was read to its end: without another there is no news.
        self._read_of: LmdbFile | None = None
        self._read_at = 0
        self._follower: asyncio.Task[None] | None = None

    @override
    async def start(self) -> None:
        self.refresh()
        self._follower = self._tasks.start("purge follower", self._follow())

    @override
    async def close(self) -> None:
        await stop(self._follower)
        await super().close()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            self.refresh()

    @override
    def refresh(self) -> None:
        file = self._file()
        if file is None:
            return
        try:
            with file.env.begin(db=file.purges) as txn:
                last = txn.id()
                if last == self._read_at and file is self._read_of:
                    return
                floor, news = self._news(file, txn)
        except lmdb.Error as error:
            _log.error("the invalidation log cannot be read", error=str(error))
            return
        self._take(floor, news)
        self.ready = True
        self._read_of, self._read_at = file, last

    @override
    def refresh_as_of_look(self) -> None:
        file = self._file()
        if file is None or file.seen != self._read_at or file is not self._read_of:
            self.refresh()

    def _news(self, file: LmdbFile, txn: "lmdb.Transaction[bytes]") -> tuple[PurgeId, list[tuple[bytes, bytes]]]:
        """The floor, and the purges that were not read yet."""
        with txn.cursor() as cursor:
            if not cursor.last() or _ID.unpack(cursor.key())[0] <= self._read_to:
                return 0, []
            floor: PurgeId = _ID.unpack(txn.get(_FLOOR_KEY, _ID.pack(0), db=file.meta))[0]
            cursor.set_range(_ID.pack(self._read_to + 1))
            return floor, list(cursor)

    def _take(self, floor: PurgeId, news: list[tuple[bytes, bytes]]) -> None:
        if self._read_to < floor:
            if self._read_to:
                self._index.lose(floor)
            else:
                self._index.raise_floor(floor)
        for key, value in news:
            self._read_to = _ID.unpack(key)[0]
            try:
                purge = load_purge(self._read_to, value)
            except ValueError:
                # What it purges is not known. Nothing must survive it.
                self._index.lose(self._read_to)
            else:
                self._index.apply(purge)

    @override
    def stats(self) -> dict[str, object]:
        return {"kind": "lmdb", **super().stats()}

    @override
    async def _send(self, purge: Purge) -> PurgeId:
        file = self._file()
        if file is None:
            raise TierFailedError("there is no cache file")
        return await file.write(partial(self._append, file, purge))

    def _append(self, file: LmdbFile, purge: Purge) -> PurgeId:
        """In the writer's thread."""
        max_kept = min(self._max_purges, max(1, int(file.max_bytes * LOG_SHARE / BYTES_PER_PURGE)))
        with file.env.begin(write=True, db=file.purges) as txn, txn.cursor() as cursor:
            last = _ID.unpack(cursor.key())[0] if cursor.last() else 0
            sent = max(last + 1, purge_id(int(self._clock.wall() * 1000), 0))
            key = _ID.pack(sent)
            txn.put(key, dump_purge(purge), append=True)
            superseded = txn.replace(_name(purge), key, db=file.purge_names)
            if superseded is not None:
                txn.delete(superseded)
            if txn.stat(file.purges)["entries"] > max_kept and cursor.first():
                oldest, dumped = cursor.item()
                txn.delete(_name(load_purge(0, dumped)), db=file.purge_names)
                txn.put(_FLOOR_KEY, oldest, db=file.meta)
                cursor.delete()
        return sent


def _name(purge: Purge) -> bytes:
    text = f"{purge.scope.value} {purge.soft} {purge.value}"
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
