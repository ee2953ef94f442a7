"""What a read of L2 and a write to it cost: microseconds of processor time in this process, decoding included.

The records have a body of 1 KB and ten header fields. Readers ask at the same time, as many as `--readers`, so that
Redis is asked in batches as it is by a busy sidecar; Redis itself is another process, which does not count. Every
figure is the least of some rounds: what else runs on the machine only adds to it.
"""

import argparse
import asyncio
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, TypeAlias

import uvloop

from proxy.clock import SystemClock
from proxy.http.dates import format_date
from proxy.http.message import shared_headers
from proxy.metrics.registry import Registry
from proxy.policy.model import EntityTag, Stored
from proxy.storage.base import CacheKey, Entry
from proxy.storage.breaker import Breaker
from proxy.storage.codec import decode, encode
from proxy.storage.lmdb import LmdbStore
from proxy.storage.redis import RedisStore
from proxy.storage.redis_url import parse_redis_url
from proxy.storage.second_tier import SecondTier
from proxy.storage.write_behind import WriteBehind
from proxy.tasks import Tasks

Work: TypeAlias = Callable[[], Awaitable[None]]

KEYS: Final = 512
ROUNDS: Final = 7
MAX_BYTES: Final = 64 * 2**20
DEADLINE_SECONDS: Final = 120.0
_MODIFIED: Final = 1_600_000_000.0


def made_entry(number: int, now: float) -> Entry:
    """A record of 1 KB that came at `now`, in wall seconds: as the cache makes them, some values its own."""
    tag = EntityTag(f"{number:016x}")
    fields = (
        ("Server", "bench"),
        ("Date", format_date(now)),
        ("Content-Type", "application/json"),
        ("Cache-Control", "max-age=60, stale-while-revalidate=30"),
        ("Vary", "Accept-Encoding"),
        ("ETag", str(tag)),
        ("Content-Length", "1024"),
        ("Last-Modified", format_date(_MODIFIED)),
        ("X-Request-ID", f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}"),
        ("X-Frame-Options", "DENY"),
    )
    stored = Stored(
        method="GET",
        status=200,
        headers=shared_headers(fields),
        request_time=now,
        response_time=now + 0.01,
        initial_age=0.01,
        fresh_until=now + 60,
        stale_while_revalidate_until=now + 90,
        stale_if_error_until=now + 90,
        etag=tag,
        last_modified=_MODIFIED,
        date=now // 1,
        vary=("accept-encoding",),
        body_length=1024,
    )
    return Entry(stored, b"x" * 1024, f"http://api.example/items/{number}", 1, now + 3600, ("items",), "default")


async def least_of_rounds(work: Work, calls: int) -> tuple[float, float]:
    """The least microseconds of processor time for a call, and the greatest number of calls a second."""
    cpu = wall = float("inf")
    for _ in range(ROUNDS):
        cpu_began, wall_began = time.process_time(), time.perf_counter()
        await work()
        cpu = min(cpu, time.process_time() - cpu_began)
        wall = min(wall, time.perf_counter() - wall_began)
    return cpu / calls * 1e6, calls / wall


def bench_codec(entry: Entry, calls: int) -> None:
    """Print what encoding and decoding cost alone."""
    data = encode(entry)
    pieces: tuple[tuple[str, Callable[[], object]], ...] = (
        ("encode", lambda: encode(entry)),
        ("decode", lambda: decode(data)),
    )
    for name, call in pieces:
        best = float("inf")
        for _ in range(ROUNDS):
            began = time.process_time()
            for _ in range(calls):
                _ = call()
            best = min(best, time.process_time() - began)
        print(f"{name:24}{best / calls * 1e6:8.1f} µs")


async def bench_tier(tier: SecondTier, tasks: Tasks, entries: dict[CacheKey, Entry], readers: int, calls: int) -> None:
    """Print what `calls` reads by `readers` at a time cost, and a put through the write-behind queue."""
    await tier.write(entries)
    keys = [*entries]
    share = max(1, calls // readers)

    async def read(first: int) -> None:
        for turn in range(share):
            if await tier.get(keys[(turn * readers + first) % len(keys)]) is None:
                raise SystemExit(f"{tier.name}: a record is missing")

    async def read_all() -> None:
        await asyncio.gather(*(read(first) for first in range(readers)))

    writes = WriteBehind(tier, tasks)
    writes.start()

    async def put_all() -> None:
        for key, entry in entries.items():
            writes.add(key, entry)
        await writes.flush()

    for name, work, done in (("get", read_all, share * readers), ("put, write-behind", put_all, len(entries))):
        cost, rate = await least_of_rounds(work, done)
        print(f"{f'{tier.name} {name}':24}{cost:8.1f} µs{rate:12,.0f} a second")
    await writes.close()


async def main(readers: int, calls: int) -> None:
    """Start what is to be measured, measure it, and print."""
    clock, tasks, metrics = SystemClock(), Tasks(), Registry()
    entries = {CacheKey(f"GET http://api.example/items/{n}"): made_entry(n, clock.wall()) for n in range(KEYS)}
    bench_codec(next(iter(entries.values())), calls)
    async with asyncio.timeout(DEADLINE_SECONDS), AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        socket = directory / "redis.sock"
        options = ("--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(directory))
        server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)  # noqa: ASYNC220  # nothing is measured yet
        stack.callback(server.wait)
        stack.callback(server.terminate)
        while not socket.exists():  # noqa: ASYNC110  # another process makes it
            await asyncio.sleep(0.01)
        tiers: tuple[SecondTier, ...] = (
            LmdbStore(
                directory / "bench.mdb",
                clock,
                tasks,
                metrics,
                Breaker("lmdb", clock, max_failures=3),
                max_bytes=MAX_BYTES,
                max_object_bytes=MAX_BYTES,
                probe_seconds=1.0,
            ),
            RedisStore(
                parse_redis_url(f"unix://{socket}"),
                clock,
                tasks,
                metrics,
                Breaker("redis", clock, max_failures=3),
                prefix="bench",
                timeout_seconds=5.0,
                max_object_bytes=MAX_BYTES,
                probe_seconds=1.0,
            ),
        )
        for tier in tiers:
            stack.push_async_callback(tier.close)
            await tier.start()
            await bench_tier(tier, tasks, entries, readers, calls)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=64)
    parser.add_argument("--calls", type=int, default=6400)
    arguments = parser.parse_args()
    uvloop.run(main(arguments.readers, arguments.calls))
