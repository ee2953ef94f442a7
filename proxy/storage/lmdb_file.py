"""The LMDB file that the workers of one machine share: the records of L2 and the invalidation log.

A write happens in a transaction of one thread, never on the event loop; a read takes a snapshot without any lock. The
system may die at any moment: a commit writes its data before the root that refers to it, so the worst that a power
failure costs is the last transactions. A process may die at any moment: it costs nothing.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import lmdb
import structlog

from proxy.storage.codec import FORMAT_VERSION
from proxy.storage.second_tier import TierFailedError

_FORMAT_KEY: Final = b"format"
_FORMAT: Final = b"sidecache lmdb 1, records %d" % FORMAT_VERSION
_TICK_KEY: Final = b"tick"
_FORMAT_FAMILY: Final = b"sidecache lmdb "
CLOSE_SECONDS: Final = 5.0
"""How long closing waits for a write that is under way; another process could hold the file's lock."""

T = TypeVar("T")
_log = structlog.get_logger("storage")


class LmdbFile:
    """One open file. A process opens a path once, and after it has forked.

    Args:
        path: the file; `<path>-lock` stands beside it.
        max_bytes: its greatest size. A file that is larger already does not shrink; it is emptied down to this.

    Attributes:
        seen: the last transaction as of which a record was read on the event loop.

    Raises:
        TierFailedError: it cannot be opened, made or written, or is no file of ours. Blocks while it opens.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            size = path.stat().st_size if path.exists() else 0
            map_size = max_bytes
            if size > max_bytes:
                map_size = size + size // 8  # to remove something, LMDB writes something first
                _log.warning("the cache file is larger than its limit", path=str(path), bytes=size, limit=max_bytes)
            self.env = lmdb.open(
                str(path),
                subdir=False,
                map_size=map_size,
                max_dbs=5,
                mode=0o600,  # responses may be confidential
                metasync=False,
                readahead=False,  # keys are hashes: what stands beside a record is not asked for next
                max_spare_txns=4,
            )
        except (OSError, lmdb.Error) as error:
            raise TierFailedError(f"the cache file {path} cannot be used: {error}") from error
        try:
            self.env.reader_check()  # processes that were killed while reading would keep old pages in use
            self._open_databases()
        except (OSError, lmdb.Error) as error:
            self.env.close()
            raise TierFailedError(f"the cache file {path} cannot be used: {error}") from error
        except TierFailedError:
            self.env.close()
            raise
        self.seen = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lmdb-writer")
        self._closed = False

    def _open_databases(self) -> None:
        with self.env.begin(write=True) as txn:
            entries = txn.stat()["entries"]
            self.meta = self.env.open_db(b"meta", txn=txn)
            known = txn.get(_FORMAT_KEY, db=self.meta)
            if known is None and entries:
                raise TierFailedError(f"{self.path} is an LMDB file of another program")
            if known is not None and not known.startswith(_FORMAT_FAMILY):
                raise TierFailedError(f"{self.path} is an LMDB file of another program")
            self.records = self.env.open_db(b"records", txn=txn)
            self.order = self.env.open_db(b"order", txn=txn)
            self.purges = self.env.open_db(b"purges", txn=txn)
            self.purge_names = self.env.open_db(b"purge names", txn=txn)
            if known != _FORMAT:
                for database in (self.records, self.order, self.purges, self.purge_names):
                    txn.drop(database, delete=False)
                if known is not None:
                    _log.info("the cache file was written by another version: emptied", path=str(self.path))
                txn.put(_FORMAT_KEY, _FORMAT, db=self.meta)

    def used_bytes(self, txn: "lmdb.Transaction[bytes] | lmdb.Transaction[memoryview]") -> int:
        """The bytes of all pages in use; exact, and read in constant time."""
        pages = 0
        for database in (self.records, self.order, self.purges, self.purge_names):
            stat = txn.stat(database)
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return int(pages * txn.stat()["psize"])

    def release_pages(self) -> None:
        """Let the next transaction use what the last one freed: LMDB waits for one between. In the writer's thread."""
        with self.env.begin(write=True, db=self.meta) as txn:
            txn.put(_TICK_KEY, txn.id().to_bytes(8, "big"))

    async def write(self, work: Callable[[], T]) -> T:
        """Run `work` in the thread that writes, after what was given before.

        Raises:
            TierFailedError: it failed, or the file is closed.
        """
        if self._closed:
            raise TierFailedError("the cache file is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer, work)
        except (OSError, lmdb.Error) as error:
            raise TierFailedError(str(error)) from error

    async def close(self) -> None:
        """Wait for what is being written, and close. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        last = asyncio.get_running_loop().run_in_executor(self._writer, self.env.sync, True)
        self._writer.shutdown(wait=False)
        try:
            await asyncio.wait_for(last, CLOSE_SECONDS)
        except (TimeoutError, OSError, lmdb.Error) as error:
            _log.error("the cache file could not be closed in order", path=str(self.path), error=repr(error))
            return
        self.env.close()
