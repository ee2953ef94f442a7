"""The invalidation log of a fleet: a Redis stream that every sidecar follows.

`XADD` with an approximate `MAXLEN` appends, `XREAD BLOCK` on a connection of its own follows. After a partition it
reads on from the last id; a log that no longer reaches back that far, or is another one, costs everything older.
"""

import asyncio
import contextlib
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError
from typing_extensions import override

from proxy.clock import Clock
from proxy.storage.base import PurgeId
from proxy.storage.invalidation_log import Purge, dump_purge, load_purge
from proxy.storage.purge_index import MAX_PURGES
from proxy.storage.redis_client import REDIS_ERRORS, RedisClient, connect, disconnect
from proxy.storage.redis_url import RedisAddress
from proxy.storage.second_tier import TierFailedError
from proxy.storage.shared_log import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS, SEQUENCE_BITS, SharedLog, purge_id
from proxy.storage.stopping import stop
from proxy.tasks import Tasks

READ_COUNT: Final = 1000
BLOCK_SECONDS: Final = 2.0
START_SECONDS: Final = 1.0
"""How long starting waits for the log to be read to its end. Until it is, L2 is not asked."""
FIELD: Final = b"purge"

_log = structlog.get_logger("storage")


def _parse_id(text: bytes) -> PurgeId:
    milliseconds, _, sequence = text.partition(b"-")
    return purge_id(int(milliseconds), int(sequence or b"0"))


def _format_id(purge_id: PurgeId) -> str:
    return f"{purge_id >> SEQUENCE_BITS}-{purge_id & ((1 << SEQUENCE_BITS) - 1)}"


class RedisLog(SharedLog):
    """The log in a Redis stream, `<prefix>:purges`.

    Args:
        timeout_seconds: how long `append` waits for Redis.
        max_purges: how many the stream keeps, and how many are remembered here.
    """

    def __init__(
        self,
        address: RedisAddress,
        clock: Clock,
        tasks: Tasks,
        *,
        prefix: str,
        timeout_seconds: float,
        max_purges: int = MAX_PURGES,
    ) -> None:
        super().__init__(clock, tasks, timeout_seconds=timeout_seconds, max_purges=max_purges)
        self._address = address
        self._stream = f"{prefix}:purges"
        self._max_purges = max_purges
        self._appender: RedisClient | None = None
        self._reader: RedisClient | None = None
        self._follower: asyncio.Task[None] | None = None
        self._read_to: PurgeId = 0
        self._caught_up = asyncio.Event()
        self.connected = False
        """Whether the stream is being followed at the moment."""

    @override
    async def start(self) -> None:
        self._appender = connect(self._address, connect_seconds=max(1.0, self._timeout_seconds), retries=0)
        self._reader = connect(self._address, connect_seconds=BLOCK_SECONDS, retries=0)
        self._follower = self._tasks.start("purge follower", self._follow(self._reader))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._caught_up.wait(), START_SECONDS)

    @override
    async def close(self) -> None:
        await stop(self._follower)
        await super().close()
        for client in (self._reader, self._appender):
            if client is not None:
                await disconnect(client)
        self._reader = self._appender = None

    @override
    def refresh(self) -> None:
        """The follower applies a record as it arrives."""

    @override
    async def _send(self, purge: Purge) -> PurgeId:
        if self._appender is None:
            raise TierFailedError("the log is not open")
        try:
            sent: Any = await self._appender.xadd(
                self._stream, {FIELD: dump_purge(purge)}, maxlen=self._max_purges, approximate=True
            )
            return _parse_id(sent)
        except REDIS_ERRORS as error:
            raise TierFailedError(f"{type(error).__name__}: {error}") from error

    async def _follow(self, client: RedisClient) -> None:
        pause = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._rejoin(client)
                while await self._read_on(client, None):
                    pass
                self.connected = True
                self.ready = True
                self._caught_up.set()
                pause = FIRST_RETRY_SECONDS
                while True:
                    await self._read_on(client, int(BLOCK_SECONDS * 1000))
            except REDIS_ERRORS as error:
                if self.connected or not self.ready:
                    _log.warning("the invalidation log is out of reach", error=f"{type(error).__name__}: {error}")
                self.connected = False
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_RETRY_SECONDS)

    async def _rejoin(self, client: RedisClient) -> None:
        """See whether the stream still has everything after what was read last."""
        try:
            async with asyncio.timeout(BLOCK_SECONDS):
                info: dict[str, Any] = await client.xinfo_stream(self._stream)
        except ResponseError as error:
            if "no such key" not in str(error):
                raise
            info = {"length": 0, "last-generated-id": b"0-0", "first-entry": None}
        length = info["length"]
        last = _parse_id(info["last-generated-id"])
        oldest = _parse_id(info["first-entry"][0]) if info["first-entry"] else last
        trimmed = info.get("entries-added", length) > length or length >= self._max_purges
        if last < self._read_to:  # flushed, or a replica took over that did not have all
            self._index.lose(self._index.last_seen + 1)
            self._read_to = 0
        elif trimmed and oldest > self._read_to:
            self._index.lose(oldest)

    async def _read_on(self, client: RedisClient, block_ms: int | None) -> bool:
        """Apply the next records; whether there were any."""
        async with asyncio.timeout(BLOCK_SECONDS + 1.0):
            answer: Any = await client.xread(
                {self._stream: _format_id(self._read_to)}, count=READ_COUNT, block=block_ms
            )
        for _, records in answer:
            for name, fields in records:
                self._take(_parse_id(name), fields)
        return bool(answer)

    def _take(self, purge_id: PurgeId, fields: dict[bytes, bytes]) -> None:
        self._read_to = purge_id
        try:
            purge = load_purge(purge_id, fields.get(FIELD, b""))
        except ValueError:
            # What it purges is not known. Nothing must survive it.
            self._index.lose(purge_id)
        else:
            self._index.apply(purge)

    @override
    def stats(self) -> dict[str, object]:
        return {"kind": "redis", "connected": self.connected, **super().stats()}
