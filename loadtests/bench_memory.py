"""What L1 costs: memory for each entry in use and packed, the pause of a full garbage collection, and the times of its
verbs. The entries have a body of 1 KB and ten header fields, three of them different in each, as the cache makes them.

Each figure in microseconds is the least of some rounds: what else runs on the machine only adds to it.
"""

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from loadtests.bench_storage import made_entry
from proxy.clock import SystemClock
from proxy.storage.base import CacheKey, Entry
from proxy.storage.memory import MemoryStore

ROUNDS: Final = 7
SAMPLE: Final = 2_000


def fresh_entry(number: int, now: float) -> Entry:
    """Entry `number`, of which it shares with others what an origin repeats."""
    entry = made_entry(number, now + number * 0.0007)
    return replace(entry, body=bytes([number % 251]) * 1024, tags=())


def key_of(number: int) -> CacheKey:
    """A key whose text nobody else holds."""
    return CacheKey(f"GET http://api.example/items/{number}")


def resident_bytes() -> int:
    """What this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def least_us(work: Callable[[], object], calls: int) -> float:
    """The least microseconds that one of `calls` takes."""
    least = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - began)
    return least / calls * 1e6


def collection_ms() -> float:
    """The milliseconds for which a full garbage collection stops everything."""
    gc.collect()
    return least_us(gc.collect, 1) / 1e3


def settle_all(store: MemoryStore) -> None:
    """Pack what was put."""
    store.next_turn()
    while store.settle(64):
        pass


def main() -> None:
    """Fill a store, measure it, pack it, measure it again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--packed-soon", action="store_true", help="pack every 2,000 entries, as a sidecar does")
    arguments = parser.parse_args()
    count, now = arguments.entries, SystemClock().wall()
    store = MemoryStore(2**40, SystemClock())
    at_rest = resident_bytes()
    began = time.perf_counter()
    for number in range(count):
        store.put(key_of(number), fresh_entry(number, now))
        if arguments.packed_soon and number % SAMPLE == SAMPLE - 1:
            settle_all(store)
    print(f"filled in {time.perf_counter() - began:.1f} s; a full collection takes {collection_ms():.1f} ms")
    print(f"in use: {(resident_bytes() - at_rest) / count:,.0f} bytes an entry, counted {store.bytes / count:,.0f}")
    settle_all(store)
    print(f"packed: {(resident_bytes() - at_rest) / count:,.0f} bytes an entry, counted {store.bytes / count:,.0f}")
    print(f"a full collection takes {collection_ms():.1f} ms")
    keys = [key_of(number) for number in range(0, count, max(count // SAMPLE, 1))]
    began = time.perf_counter()
    for key in keys:
        store.get(key)
    print(f"get, packed: {(time.perf_counter() - began) / len(keys) * 1e6:.2f} µs")
    print(f"get, in use: {least_us(lambda: [store.get(key) for key in keys], len(keys)):.2f} µs")
    print(f"look of the sweep: {least_us(lambda: store.sweep(SAMPLE), SAMPLE):.2f} µs")
    entries = [fresh_entry(number, now) for number in range(SAMPLE)]
    few = MemoryStore(2**40, SystemClock())
    puts, packs = [], []
    for _ in range(ROUNDS):
        few.clear()
        began = time.perf_counter()
        for number, entry in enumerate(entries):
            few.put(keys[number], entry)
        puts.append(time.perf_counter() - began)
    few.clear()
    for _ in range(ROUNDS):
        for number in range(SAMPLE):
            few.put(CacheKey(f"/{number}"), fresh_entry(number, now))
        began = time.perf_counter()
        settle_all(few)
        packs.append(time.perf_counter() - began)
        few.clear()
    print(f"put: {min(puts) / SAMPLE * 1e6:.2f} µs; packing: {min(packs) / SAMPLE * 1e6:.2f} µs")


if __name__ == "__main__":
    main()
