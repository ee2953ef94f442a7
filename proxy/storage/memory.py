"""L1: records in memory, bounded in bytes, evicted by SIEVE. Nothing here waits.

Theory of operation. Records stand in one doubly linked queue, newest at its head. A hit sets the record's `visited`
flag and moves nothing. To make room, a hand walks from the tail towards the head: a visited record loses its flag and
stays, the first one without a flag goes (Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024). Records are indexed by
URL, by tag and, where a resource varies, by primary key, so that a purge reads only what it removes.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Protocol, TypeAlias

from proxy.clock import Clock
from proxy.storage.base import CacheKey, Entry, Record, VaryMarker
from proxy.storage.url_index import UrlIndex

_Key: TypeAlias = str | tuple[str, str]

# What a record costs beside its texts and bodies, fitted to the growth of a process: 100,000 entries of 1 KB take
# 260 MB with four header fields, 268 MB with seven and 276 MB with ten, names and frequent values shared. It holds the
# record's objects, its queue node, and its places in the dicts.
ENTRY_OVERHEAD: Final = 1_180
MARKER_OVERHEAD: Final = 600
HEADER_OVERHEAD: Final = 30  # a place in a multidict, and the object of a value that is not shared
TEXT_OVERHEAD: Final = 50  # an object of type str or bytes
TAG_OVERHEAD: Final = 200  # a place in the tag's set


def _internal(key: CacheKey) -> _Key:
    # A str caches its hash and compares in C: a look-up by `CacheKey` itself takes 1.3 instead of 0.2 µs.
    return (key.primary, key.variant) if key.variant else key.primary


def weigh(key: CacheKey, record: Record) -> int:
    """The bytes of memory that keeping `record` under `key` takes, as near as can be known without asking for each."""
    size = 2 * (len(key.primary) + TEXT_OVERHEAD) + len(key.variant) + 2 * len(record.url)
    if isinstance(record, VaryMarker):
        return size + MARKER_OVERHEAD + sum(len(name) + TEXT_OVERHEAD for name in record.names)
    size += ENTRY_OVERHEAD + len(record.body)
    size += sum(len(value) for value in record.stored.headers.values()) + HEADER_OVERHEAD * len(record.stored.headers)
    if record.tags:
        size += sum(len(tag) + TAG_OVERHEAD for tag in record.tags)
    if record.forms:
        size += 200 + sum(map(_form_bytes, record.forms.values()))
    return size


def _form_bytes(form: bytes) -> int:
    return len(form) + 2 * TEXT_OVERHEAD


class Watcher(Protocol):
    """Something made of a record, which is worth nothing without it."""

    def void(self) -> None:
        """The record is gone, or is another now."""
        ...


class Use(Protocol):
    """A watched record, for who uses it without asking the store."""

    visited: bool  # to be set at each use: it keeps the record from eviction
    hits: int  # how often it was used; to be added to


class _Node:
    __slots__ = ("hits", "key", "newer", "older", "record", "size", "visited", "watchers")

    def __init__(self, key: CacheKey, record: Record, size: int) -> None:
        self.key = key
        self.record = record
        self.size = size
        self.visited = False
        self.hits = 0
        self.newer: _Node | None = None
        self.older: _Node | None = None
        self.watchers: list[weakref.ref[Watcher]] | None = None

    def alert(self) -> None:
        """Tell who watches that the record is not what it was."""
        if self.watchers is not None:
            watchers, self.watchers = self.watchers, None
            for reference in watchers:
                watcher = reference()
                if watcher is not None:
                    watcher.void()


class MemoryStore:
    """L1.

    Args:
        max_bytes: the most that all records may weigh.
        max_object_bytes: a record that weighs more is not admitted.

    Attributes:
        bytes: what all records weigh now.
        hits, misses, puts, evictions, expirations, refusals: how often, since the start.
    """

    __slots__ = (
        "_clock", "_hand", "_newest", "_nodes", "_oldest", "_sweep", "_tags", "_urls", "_variants", "bytes",
        "evictions", "expirations", "hits", "max_bytes", "max_object_bytes", "misses", "puts", "refusals",
    )  # fmt: skip

    def __init__(self, max_bytes: int, clock: Clock, *, max_object_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self.max_object_bytes = max_bytes if max_object_bytes is None else min(max_object_bytes, max_bytes)
        self._clock = clock
        self._nodes: dict[_Key, _Node] = {}
        self._newest: _Node | None = None
        self._oldest: _Node | None = None
        self._hand: _Node | None = None
        self._sweep: _Node | None = None
        self._urls: UrlIndex[_Key] = UrlIndex()
        self._tags: dict[str, set[_Key]] = {}
        self._variants: dict[str, set[_Key]] = {}
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.puts = 0
        self.evictions = 0
        self.expirations = 0
        self.refusals = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, key: CacheKey) -> Record | None:
        """The record under `key`, unless its `discard_at` has come."""
        node = self._nodes.get((key.primary, key.variant) if key.variant else key.primary)
        if node is None:
            self.misses += 1
            return None
        record = node.record
        if record.discard_at <= self._clock.wall():
            self.expirations += 1
            self.misses += 1
            self._remove(node)
            return None
        node.visited = True
        node.hits += 1
        self.hits += 1
        return record

    def peek(self, key: CacheKey) -> Record | None:
        """What stands under `key`, expired or not, without counting as a use of it."""
        node = self._nodes.get(_internal(key))
        return None if node is None else node.record

    def uses(self, key: CacheKey) -> int:
        """How often what stands under `key` was asked for and found, since it came into memory; freshened or not."""
        node = self._nodes.get(_internal(key))
        return 0 if node is None else node.hits

    def watch(self, key: CacheKey, watcher: Watcher) -> Use | None:
        """Have `watcher` told when what stands under `key` is removed or replaced. It is not kept alive.

        Returns:
            The record's flag of use; None: nothing stands there.
        """
        node = self._nodes.get(_internal(key))
        if node is None:
            return None
        alive = [one for one in node.watchers or () if one() is not None]
        node.watchers = [*alive, weakref.ref(watcher)]
        return node

    def put(self, key: CacheKey, record: Record) -> bool:
        """Keep `record` under `key`, in place of what was there.

        Returns:
            Whether it was admitted. If not, what was there is gone all the same: it is no longer the newest.
        """
        size = weigh(key, record)
        internal = _internal(key)
        node = self._nodes.get(internal)
        if size > self.max_object_bytes or record.discard_at <= self._clock.wall():
            self.refusals += 1
            if node is not None:
                self._remove(node)
            return False
        self.puts += 1
        if node is not None:
            self._replace(node, internal, record, size)
        else:
            node = _Node(key, record, size)
            self._nodes[internal] = node
            self._index(internal, node)
            self._enqueue(node)
            self.bytes += size
        self._make_room(node)
        return True

    def delete(self, key: CacheKey) -> bool:
        """Forget what is under `key`; whether there was anything."""
        node = self._nodes.get(_internal(key))
        if node is None:
            return False
        self._remove(node)
        return True

    def close(self) -> None:
        """Forget everything."""
        self.clear()

    def clear(self) -> int:
        """Forget everything; how many records that were."""
        count = len(self._nodes)
        self._nodes.clear()
        self._urls = UrlIndex()
        self._tags.clear()
        self._variants.clear()
        # Neighbours refer to each other: cut, they are freed now and not by the garbage collector some day.
        node = self._oldest
        while node is not None:
            node.alert()
            node.older, node = None, node.newer
        self._newest = self._oldest = self._hand = self._sweep = None
        self.bytes = 0
        return count

    def attach_form(self, key: CacheKey, entry: Entry, name: str, data: bytes) -> Entry | None:
        """Keep `data` as the form `name` of `entry`, if what is stored under `key` is `entry` still.

        An entry that only got other metadata or other forms in the meantime counts as the same: its body, from which
        the form was made, is.

        Returns:
            The entry that now stands in its place; None: it is another by now, or too large with this form.
        """
        node = self._nodes.get(_internal(key))
        if node is None or not isinstance(node.record, Entry) or node.record.body is not entry.body:
            return None
        grown = replace(node.record, forms={**node.record.forms, name: data})
        size = weigh(key, grown)
        if size > self.max_object_bytes:
            return None
        self.bytes += size - node.size
        node.alert()
        node.record = grown
        node.size = size
        self._make_room(node)
        return grown

    # Purges.

    def keys_of_primary(self, primary: str) -> list[CacheKey]:
        """The keys of what is kept for the primary key `primary`: the resource and its variants."""
        found: list[_Key] = [primary] if primary in self._nodes else []
        return self._keys([*found, *self._variants.get(primary, ())])

    def keys_of_url(self, url: str) -> list[CacheKey]:
        """The keys of what is kept for exactly `url`."""
        return self._keys(self._urls.find(url))

    def keys_of_prefix(self, prefix: str) -> list[CacheKey]:
        """The keys of what is kept for URLs that begin with `prefix`."""
        return self._keys(self._urls.find_prefix(prefix))

    def keys_of_tag(self, tag: str) -> list[CacheKey]:
        """The keys of entries tagged `tag`."""
        return self._keys(self._tags.get(tag, ()))

    def all_keys(self) -> list[CacheKey]:
        """Every key, oldest first."""
        return [node.key for node in self._nodes.values()]

    def update(self, key: CacheKey, change: Callable[[Entry], Entry]) -> None:
        """Replace the entry under `key` by `change(entry)`, which must keep its URL, its tags and its bodies."""
        node = self._nodes.get(_internal(key))
        if node is not None and isinstance(node.record, Entry):
            node.alert()
            node.record = change(node.record)

    def sweep(self, max_records: int) -> int:
        """Look at up to `max_records` records, going on where the last call stopped, and drop the expired ones.

        Returns:
            How many were dropped.
        """
        now = self._clock.wall()
        dropped = 0
        for _ in range(min(max_records, len(self._nodes))):
            node = self._sweep or self._oldest
            if node is None:
                break
            self._sweep = node.newer
            if node.record.discard_at <= now:
                self.expirations += 1
                dropped += 1
                self._remove(node)
        return dropped

    # The queue.

    def _enqueue(self, node: _Node) -> None:
        node.older = self._newest
        if self._newest is not None:
            self._newest.newer = node
        else:
            self._oldest = node
        self._newest = node

    def _make_room(self, keep: _Node) -> None:
        while self.bytes > self.max_bytes:
            hand = self._hand or self._oldest
            assert hand is not None  # there are bytes, so there are records
            if hand.visited or hand is keep:
                hand.visited = False
                self._hand = hand.newer
            else:
                self.evictions += 1
                self._remove(hand)  # moves the hand on

    def _remove(self, node: _Node) -> None:
        node.alert()
        internal = _internal(node.key)
        del self._nodes[internal]
        self._unindex(internal, node)
        older, newer = node.older, node.newer
        if self._hand is node:
            self._hand = newer
        if self._sweep is node:
            self._sweep = newer
        if older is not None:
            older.newer = newer
        else:
            self._oldest = newer
        if newer is not None:
            newer.older = older
        else:
            self._newest = older
        node.older = node.newer = None
        self.bytes -= node.size

    def _replace(self, node: _Node, internal: _Key, record: Record, size: int) -> None:
        node.alert()
        old = node.record
        same_tags = isinstance(old, Entry) and isinstance(record, Entry) and old.tags == record.tags
        if old.url != record.url or not same_tags:
            self._unindex(internal, node)
            node.record = record
            self._index(internal, node)
        else:
            node.record = record
        self.bytes += size - node.size
        node.size = size

    # The indexes.

    def _index(self, internal: _Key, node: _Node) -> None:
        record = node.record
        self._urls.add(record.url, internal)
        if node.key.variant:
            self._variants.setdefault(node.key.primary, set()).add(internal)
        if isinstance(record, Entry):
            for tag in record.tags:
                self._tags.setdefault(tag, set()).add(internal)

    def _unindex(self, internal: _Key, node: _Node) -> None:
        record = node.record
        self._urls.discard(record.url, internal)
        if node.key.variant:
            _discard(self._variants, node.key.primary, internal)
        if isinstance(record, Entry):
            for tag in record.tags:
                _discard(self._tags, tag, internal)

    def _keys(self, internals: Iterable[_Key]) -> list[CacheKey]:
        return [self._nodes[internal].key for internal in internals]


def _discard(index: dict[str, set[_Key]], name: str, internal: _Key) -> None:
    members = index.get(name)
    if members is not None:
        members.discard(internal)
        if not members:
            del index[name]
