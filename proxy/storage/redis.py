"""L2 in Redis: standalone, behind Sentinel, or a Cluster.

Theory of operation. Look-ups of one turn of the event loop go out together: one `MGET`, or one pipeline for each node
of a Cluster. A record is one string under `<prefix>:<digest>` that Redis itself forgets at `discard_at`. There is no
`KEYS` and no `SCAN`: purges are the invalidation log's business.
"""

import asyncio
import math
from binascii import hexlify
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from typing_extensions import override

from proxy.clock import Clock
from proxy.metrics.registry import Registry
from proxy.storage.base import CacheKey, Record
from proxy.storage.breaker import Breaker
from proxy.storage.codec import Look, decode, encode, look
from proxy.storage.redis_client import REDIS_ERRORS, RedisClient, connect, disconnect
from proxy.storage.redis_url import RedisAddress
from proxy.storage.second_tier import LATER, Batch, Later, SecondTier, TierFailedError
from proxy.tasks import Tasks

MAX_KEYS_A_CALL: Final = 128
WRITE_PATIENCE: Final = 20.0
"""A write, which nobody waits for, may take so many times the time budget of a read."""
LARGE_BYTES: Final = 128 * 1024
"""From this size on, bytes are encoded and decoded in a thread: checksum and copy of a megabyte take 1.5 ms."""
MAX_LIFE_MS: Final = 10 * 365 * 86_400 * 1000


_Told: TypeAlias = Callable[[Look | Later | None], None]
"""Somebody who wants to be told, once, and does not wait in a coroutine."""

_Lookup: TypeAlias = tuple[bytes, asyncio.Future[Record | None] | _Told]


class RedisStore(SecondTier):
    """L2 in Redis.

    Args:
        address: where it is.
        prefix: begins every key.
        timeout_seconds: the time budget of a read.
        max_object_bytes: a record that takes more bytes, encoded, is not written.
        probe_seconds: how often a Redis that failed is tried again.
    """

    def __init__(
        self,
        address: RedisAddress,
        clock: Clock,
        tasks: Tasks,
        metrics: Registry,
        breaker: Breaker,
        *,
        prefix: str,
        timeout_seconds: float,
        max_object_bytes: int,
        probe_seconds: float,
    ) -> None:
        super().__init__("redis", clock, tasks, metrics, breaker, probe_seconds)
        self._address = address
        self._prefix = f"{prefix}:".encode()
        self._timeout_seconds = timeout_seconds
        self._write_seconds = timeout_seconds * WRITE_PATIENCE
        self._max_object_bytes = max_object_bytes
        self._client: RedisClient | None = None
        self._lookups: list[_Lookup] = []

    @override
    async def close(self) -> None:
        await super().close()
        client, self._client = self._client, None
        if client is not None:
            await disconnect(client)

    @override
    async def _probe(self) -> None:
        if self._client is None:
            self._client = connect(self._address, connect_seconds=max(1.0, self._timeout_seconds), retries=1)
        try:
            async with asyncio.timeout(max(1.0, self._timeout_seconds)):
                await self._client.get(self._prefix + b"probe")
        except REDIS_ERRORS as error:
            raise TierFailedError(_text(error)) from error

    @override
    async def get(self, key: CacheKey) -> Record | None:
        if not self.breaker.closed or self._client is None:
            self.counters.skipped.value += 1
            return None
        loop = asyncio.get_running_loop()
        lookup: asyncio.Future[Record | None] = loop.create_future()
        if not self._lookups:
            loop.call_soon(self._send_lookups)
        self._lookups.append((self._name(key), lookup))
        return await lookup

    @override
    def look_soon(self, key: CacheKey, done: _Told) -> bool:
        if not self.breaker.closed or self._client is None:
            return False
        if not self._lookups:
            asyncio.get_running_loop().call_soon(self._send_lookups)
        self._lookups.append((self._name(key), done))
        return True

    def _name(self, key: CacheKey) -> bytes:
        return self._prefix + hexlify(key.digest())  # redis-py takes 0.7 µs more to send what is text

    def _send_lookups(self) -> None:
        lookups, self._lookups = self._lookups, []
        for start in range(0, len(lookups), MAX_KEYS_A_CALL):
            part = lookups[start : start + MAX_KEYS_A_CALL]
            try:
                _ = self._tasks.start("redis read", self._look_up(part))
            except RuntimeError:  # the program is ending
                _settle(part, 0)

    async def _look_up(self, lookups: list[_Lookup]) -> None:
        began = self._clock.monotonic()
        reached = 0
        try:
            async with asyncio.timeout(self._timeout_seconds):
                values = await self._fetch([name for name, _ in lookups])
                for (_, lookup), value in zip(lookups, values, strict=True):
                    reached += 1
                    if not isinstance(lookup, asyncio.Future):
                        lookup(self._glimpsed(value))
                        continue
                    if isinstance(value, bytes) and len(value) >= LARGE_BYTES:
                        record = self._counted(await asyncio.to_thread(decode, value))
                    elif isinstance(value, bytes):
                        record = self._counted(decode(value))
                    else:
                        self.counters.misses.value += 1
                        record = None
                    if not lookup.done():
                        lookup.set_result(record)
        except TimeoutError:
            self.counters.timeouts.value += len(lookups)
            self.breaker.failed(f"no answer within {self._timeout_seconds * 1000:.0f} ms")
        except REDIS_ERRORS as error:
            self.counters.errors.value += len(lookups)
            self.breaker.failed(_text(error))
        else:
            latency = self._clock.monotonic() - began
            self.breaker.succeeded(latency)
            self.counters.latency.observe(latency)
        finally:
            _settle(lookups, reached)

    async def _fetch(self, names: list[bytes]) -> Sequence[object]:
        """What stands under each of `names`; anything but bytes: nothing that is ours."""
        client = self._client
        if client is None:
            return [None] * len(names)
        if not isinstance(client, RedisCluster):
            return await client.mget(names)  # what is no string comes as None
        pipeline = client.pipeline()
        for name in names:
            _ = pipeline.get(name)  # awaited as a whole
        values: list[object] = await pipeline.execute(raise_on_error=False)
        for value in values:
            # A node that cannot be reached is trouble; a key of another type is a miss.
            if isinstance(value, OSError | RedisConnectionError | RedisTimeoutError):
                raise value
        return values

    def _glimpsed(self, value: object) -> Look | Later | None:
        if value is None:
            return None
        found = look(value) if isinstance(value, bytes) and len(value) < LARGE_BYTES else None
        if found is None:
            return LATER
        self.counters.hits.value += 1
        return found

    def _counted(self, record: Record | None) -> Record | None:
        if record is None:
            self.counters.undecodable.value += 1
        else:
            self.counters.hits.value += 1
        return record

    @override
    async def write(self, batch: Batch) -> bool:
        if not self.breaker.closed or self._client is None:
            self.counters.skipped.value += 1
            return False
        began = self._clock.monotonic()
        try:
            errors = await self._write(self._client, batch)
        except TimeoutError:
            self.counters.timeouts.value += 1
            self.breaker.failed(f"a write took longer than {self._write_seconds:.1f} s")
            return False
        except REDIS_ERRORS as error:
            self.counters.errors.value += 1
            self.breaker.failed(_text(error))
            return False
        # Redis answers, if only to refuse: out of memory, read-only during a failover. Reads may go on.
        self.breaker.succeeded(self._clock.monotonic() - began)
        self.counters.errors.value += errors
        return not errors

    async def _write(self, client: RedisClient, batch: Batch) -> int:
        """Send `batch`; how many of its commands were refused."""
        encoded = await self._encoded(batch)
        now = self._clock.wall()
        pipeline = client.pipeline() if isinstance(client, RedisCluster) else client.pipeline(transaction=False)
        written = 0
        for (key, record), value in zip(batch.items(), encoded, strict=True):
            if record is not None and value is not None and record.discard_at > now:
                left = (record.discard_at - now) * 1000
                _ = pipeline.set(self._name(key), value, px=max(1, math.ceil(min(left, MAX_LIFE_MS))))
                written += 1
            else:
                _ = pipeline.execute_command("UNLINK", self._name(key))  # a Cluster's `unlink` does not queue
                written += record is None
        async with asyncio.timeout(self._write_seconds):
            answers = await pipeline.execute(raise_on_error=False)
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        for answer in refused:
            if isinstance(answer, RedisConnectionError | RedisTimeoutError):
                raise answer
        if refused:
            self.breaker.note(_text(refused[0]))
        self.counters.writes.value += max(0, written - len(refused))
        self.counters.dropped.value += len(batch) - written
        return len(refused)

    async def _encoded(self, batch: Batch) -> list[bytes | None]:
        """The values to write; None: nothing, or more than may be written."""

        def work() -> list[bytes | None]:
            values = [None if record is None else encode(record, key.primary) for key, record in batch.items()]
            return [value if value is not None and len(value) <= self._max_object_bytes else None for value in values]

        size = sum(getattr(record, "body", b"").__len__() for record in batch.values())
        return work() if size < LARGE_BYTES else await asyncio.to_thread(work)


def _settle(lookups: list[_Lookup], reached: int) -> None:
    """Let those who still wait go on without a record. Who asked for a look is not to ask again and to wait as long.

    Args:
        reached: so many were seen to, but one whose record was being decoded may still wait.
    """
    for place, (_, lookup) in enumerate(lookups):
        if not isinstance(lookup, asyncio.Future):
            if place >= reached:
                lookup(None)
        elif not lookup.done():
            lookup.set_result(None)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
