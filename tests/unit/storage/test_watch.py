"""Whoever made something of a record in L1 is told when it is worth nothing any more."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from proxy.storage.memory import MemoryStore
from tests.support.clock import FakeClock
from tests.support.records import entry, key

KEY = key("/0")


class Replica:
    def __init__(self) -> None:
        self.alerts = 0

    def void(self) -> None:
        self.alerts += 1


def stored(max_bytes: int = 10**6) -> tuple[MemoryStore, FakeClock]:
    clock = FakeClock()
    store = MemoryStore(max_bytes, clock)
    store.put(KEY, entry("/0"))
    return store, clock


def expire(store: MemoryStore, clock: FakeClock) -> None:
    clock.advance(10**6)
    store.get(KEY)


def sweep(store: MemoryStore, clock: FakeClock) -> None:
    clock.advance(10**6)
    store.sweep(10)


CHANGES: dict[str, Callable[[MemoryStore, FakeClock], object]] = {
    "removed": lambda store, clock: store.delete(KEY),
    "replaced": lambda store, clock: store.put(KEY, entry("/0", b"new")),
    "changed": lambda store, clock: store.update(KEY, lambda old: replace(old, route="other")),
    "given a form": lambda store, clock: store.attach_form(KEY, store.peek(KEY), "gzip", b"form"),  # type: ignore[arg-type]  # it is an entry
    "cleared": lambda store, clock: store.clear(),
    "expired": expire,
    "swept": sweep,
    "evicted": lambda store, clock: [store.put(key(f"/{n}"), entry(f"/{n}", bytes(400_000))) for n in range(1, 5)],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_watcher_is_told_once_that_its_record_was(change: str) -> None:
    store, clock = stored()
    replica = Replica()
    assert store.watch(KEY, replica) is not None
    CHANGES[change](store, clock)
    store.delete(KEY)
    assert replica.alerts == 1


def test_what_is_not_there_cannot_be_watched() -> None:
    store, _ = stored()
    assert store.watch(key("/1"), Replica()) is None


def test_a_use_that_the_store_did_not_see_keeps_the_record_from_eviction() -> None:
    clock = FakeClock()
    store = MemoryStore(10**6, clock)
    for number in range(2):
        store.put(key(f"/{number}"), entry(f"/{number}", bytes(400_000)))
    replica = Replica()
    use = store.watch(KEY, replica)
    assert use is not None
    use.visited = True
    store.put(key("/2"), entry("/2", bytes(400_000)))
    assert store.peek(KEY) is not None
    assert replica.alerts == 0


def test_uses_that_the_store_did_not_see_count_with_those_that_it_did() -> None:
    store, _ = stored()
    store.get(KEY)
    use = store.watch(KEY, Replica())
    assert use is not None
    use.hits += 5
    assert (store.uses(KEY), store.uses(key("/1"))) == (6, 0)


def test_watchers_that_are_gone_are_neither_told_nor_kept() -> None:
    store, _ = stored()
    for _ in range(100):
        store.watch(KEY, Replica())
    last = Replica()
    node = store.watch(KEY, last)
    assert len(getattr(node, "watchers")) == 1  # noqa: B009 — the type of a use does not tell of it
    store.delete(KEY)
    assert last.alerts == 1
