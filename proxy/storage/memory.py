"""L1: records in memory, bounded in bytes, evicted by SIEVE. Nothing here waits.

Theory of operation. Records stand in one doubly linked queue, newest at its head. A hit sets the record's `visited`
flag and moves nothing. To make room, a hand walks from the tail towards the head: a visited record loses its flag and
stays, the first one without a flag goes (Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024). Records are indexed by
URL, by tag and, where a resource varies, by primary key, so that a purge reads only what it removes.

An entry that nobody has used for a while is packed (`packed.py`) and takes half the overhead; the first look at it
unpacks it. No caller can tell: what somebody else holds a reference to, or watches, is not packed, so that the same
object is given out as long as anybody has it to compare with.
"""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from proxy.clock import Clock
from proxy.storage.base import CacheKey, Entry, Record, VaryMarker
from proxy.storage.node import Node, NodeKey, Use, Watcher, node_key, primary_of
from proxy.storage.packed import PackedEntry, address, pack, unpack, url_of
from proxy.storage.url_index import UrlIndex
from proxy.storage.weights import PACKED_OVERHEAD, UNPACKED_OVERHEAD, unpacked_bytes, weigh, weigh_packed

SIZES_SHARED: Final = 4_096


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
        "_clock", "_hand", "_new", "_newest", "_nodes", "_oldest", "_sizes", "_sweep", "_tags", "_turn", "_urls",
        "_variants", "bytes", "evictions", "expirations", "hits", "max_bytes", "max_object_bytes", "misses", "puts",
        "refusals",
    )  # fmt: skip

    def __init__(self, max_bytes: int, clock: Clock, *, max_object_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self.max_object_bytes = max_bytes if max_object_bytes is None else min(max_object_bytes, max_bytes)
        self._clock = clock
        self._nodes: dict[NodeKey, Node] = {}
        self._newest: Node | None = None
        self._oldest: Node | None = None
        self._hand: Node | None = None
        self._sweep: Node | None = None
        self._new: Node | None = None  # the oldest one that no sweep has looked at, and may be to be packed
        self._turn = 0
        self._sizes: dict[int, int] = {}
        self._urls: UrlIndex = UrlIndex()
        self._tags: dict[str, set[NodeKey]] = {}
        self._variants: dict[str, set[NodeKey]] = {}
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
        return self._unpack(node, record) if type(record) is PackedEntry else record

    def peek(self, key: CacheKey) -> Record | None:
        """What stands under `key`, expired or not, without counting as a use of it."""
        node = self._nodes.get(node_key(key))
        return None if node is None else self._record(node)

    def holds(self, key: CacheKey) -> bool:
        """Whether something stands under `key`, expired or not."""
        return node_key(key) in self._nodes

    def admits(self, size: int) -> bool:
        """Whether a record of this weight would be kept."""
        return size <= self.max_object_bytes

    @property
    def room(self) -> int:
        """How many records it could hold if all were like those that it holds; without any, so many as it has bytes."""
        return self.max_bytes * len(self._nodes) // self.bytes if self.bytes else self.max_bytes

    def discard_at(self, key: CacheKey) -> float | None:
        """When what stands under `key` is of no use any more, in wall seconds; None: nothing stands there."""
        node = self._nodes.get(node_key(key))
        return None if node is None else node.record.discard_at

    def uses(self, key: CacheKey) -> int:
        """How often what stands under `key` was asked for and found, since it came into memory; freshened or not."""
        node = self._nodes.get(node_key(key))
        return 0 if node is None else node.hits

    def watch(self, key: CacheKey, watcher: Watcher) -> Use | None:
        """Have `watcher` told when what stands under `key` is removed or replaced. It is not kept alive.

        Returns:
            The record's flag of use; None: nothing stands there.
        """
        node = self._nodes.get(node_key(key))
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
        internal = node_key(key)
        node = self._nodes.get(internal)
        if size > self.max_object_bytes or record.discard_at <= self._clock.wall():
            self.refusals += 1
            if node is not None:
                self._remove(node)
            return False
        self.puts += 1
        if node is not None:
            self._replace(node, record, size)
        else:
            node = Node(internal, record, size, self._turn)
            self._nodes[internal] = node
            self._index(internal, record.url, _tags_of(record))
            self._enqueue(node)
            self.bytes += size
        self._make_room(node)
        return True

    def put_packed(self, key: CacheKey, packed: PackedEntry) -> bool:
        """The same for an entry without derived forms that is packed already; it has the weight of a packed one."""
        internal = node_key(key)
        where, tags = address(packed)
        size = weigh_packed(key, packed, tags)
        url_bytes = len(key.primary) - where if isinstance(where, int) else len(where)
        # As `put` would see it, but for headers.
        too_large = size + UNPACKED_OVERHEAD + url_bytes > self.max_object_bytes
        if too_large or internal in self._nodes or packed.discard_at <= self._clock.wall():
            return self.put(key, unpack(packed, key.primary))
        self.puts += 1
        node = Node(internal, packed, self._shared(size), self._turn)
        self._nodes[internal] = node
        self._index(internal, where, tags)
        self._enqueue(node)
        self.bytes += size
        self._make_room(node)
        return True

    def delete(self, key: CacheKey) -> bool:
        """Forget what is under `key`; whether there was anything."""
        node = self._nodes.get(node_key(key))
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
        self._newest = self._oldest = self._hand = self._sweep = self._new = None
        self.bytes = 0
        return count

    def attach_form(self, key: CacheKey, entry: Entry, name: str, data: bytes) -> Entry | None:
        """Keep `data` as the form `name` of `entry`, if what is stored under `key` is `entry` still.

        An entry that only got other metadata or other forms in the meantime counts as the same: its body, from which
        the form was made, is.

        Returns:
            The entry that now stands in its place; None: it is another by now, or too large with this form.
        """
        node = self._nodes.get(node_key(key))
        if node is None or isinstance(node.record, VaryMarker) or node.record.body is not entry.body:
            return None
        current = self._record(node)
        assert isinstance(current, Entry)
        grown = replace(current, forms={**current.forms, name: data})
        size = weigh(key, grown)
        if size > self.max_object_bytes:
            return None
        node.alert()
        node.record = grown
        self._resize(node, size)
        self._make_room(node)
        return grown

    # Purges.

    def keys_of_primary(self, primary: str) -> list[CacheKey]:
        """The keys of what is kept for the primary key `primary`: the resource and its variants."""
        found: list[NodeKey] = [primary] if primary in self._nodes else []
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
        return self._keys(self._nodes)

    def update(self, key: CacheKey, change: Callable[[Entry], Entry]) -> None:
        """Replace the entry under `key` by `change(entry)`, which must keep its URL, its tags, its bodies and its
        `discard_at`. With a packed entry that waits until it is looked at.
        """
        node = self._nodes.get(node_key(key))
        if node is None or isinstance(node.record, VaryMarker):
            return
        node.alert()
        if isinstance(node.record, PackedEntry) and node.record.change is None:
            node.record.change = change
            return
        entry = self._record(node)
        assert isinstance(entry, Entry)
        node.record = change(entry)

    def sweep(self, max_records: int) -> int:
        """Look at up to `max_records` records, going on where the last call stopped, drop the expired ones and pack
        those that were not used since the last look.

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
            else:
                self._look(node)
        return dropped

    def settle(self, max_records: int) -> int:
        """Look at up to `max_records` records that were put before this turn and not looked at yet: pack the unused.

        A record is often asked for again just when it was put, so it is not packed then; but to wait for the sweep,
        which is slow, would leave the many that come once unpacked for a minute.

        Returns:
            At how many it looked; fewer than `max_records`: there are no more.
        """
        for looked in range(max_records):
            node = self._new
            while node is not None and type(node.record) is PackedEntry:
                node = node.newer
            self._new = node
            if node is None or node.turn == self._turn:
                return looked
            self._new = node.newer
            self._look(node)
        return max_records

    def next_turn(self) -> None:
        """What was put until now is for `settle`."""
        self._turn += 1

    # Packing.

    def _look(self, node: Node) -> None:
        if node.hits != node.looked:
            node.looked = node.hits
        elif type(node.record) is Entry and not node.is_held():
            entry = node.record
            packed = pack(entry, primary_of(node.key))
            node.watchers = None
            node.record = packed
            size = node.size - unpacked_bytes(entry) + PACKED_OVERHEAD + packed.extra_bytes
            self._resize(node, self._shared(size))

    def _record(self, node: Node) -> Record:
        record = node.record
        return self._unpack(node, record) if isinstance(record, PackedEntry) else record

    def _unpack(self, node: Node, packed: PackedEntry) -> Entry:
        entry = node.record = unpack(packed, primary_of(node.key))
        self._resize(node, node.size + unpacked_bytes(entry) - PACKED_OVERHEAD - packed.extra_bytes)
        self._make_room(node)
        return entry

    @staticmethod
    def _address(node: Node) -> tuple[str | int, tuple[str, ...]]:
        """URL (see `UrlIndex.add`) and tags, under which it is indexed."""
        record = node.record
        return address(record) if isinstance(record, PackedEntry) else (record.url, _tags_of(record))

    def _shared(self, size: int) -> int:
        """`size` as an object that others have, too: 32 bytes less for each packed entry that weighs as much."""
        if len(self._sizes) >= SIZES_SHARED:
            self._sizes.clear()
        return self._sizes.setdefault(size, size)

    def _resize(self, node: Node, size: int) -> None:
        self.bytes += size - node.size
        node.size = size

    # The queue.

    def _enqueue(self, node: Node) -> None:
        node.older = self._newest
        if self._newest is not None:
            self._newest.newer = node
        else:
            self._oldest = node
        self._newest = node
        if self._new is None and type(node.record) is not PackedEntry:
            self._new = node

    def _make_room(self, keep: Node) -> None:
        while self.bytes > self.max_bytes:
            hand = self._oldest if self._hand is None else self._hand
            assert hand is not None  # there are bytes, so there are records
            if (hand.visited or hand is keep) and len(self._nodes) > 1:
                hand.visited = False
                self._hand = hand.newer
            else:
                self.evictions += 1
                self._remove(hand)  # moves the hand on

    def _remove(self, node: Node) -> None:
        if node.watchers is not None:
            node.alert()
        del self._nodes[node.key]
        self._unindex(node.key, *self._address(node))
        older, newer = node.older, node.newer
        if self._hand is node:
            self._hand = newer
        if self._sweep is node:
            self._sweep = newer
        if self._new is node:
            self._new = newer
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

    def _replace(self, node: Node, record: Record, size: int) -> None:
        node.alert()
        where, tags = self._address(node)
        old, new = (url_of(where, primary_of(node.key)), tags), (record.url, _tags_of(record))
        node.record = record
        if old != new:
            self._unindex(node.key, *old)
            self._index(node.key, *new)
        self._resize(node, size)

    # The indexes.

    def _index(self, key: NodeKey, where: str | int, tags: tuple[str, ...]) -> None:
        self._urls.add(where, key)
        if not isinstance(key, str):
            self._variants.setdefault(key[0], set()).add(key)
        for tag in tags:
            self._tags.setdefault(tag, set()).add(key)

    def _unindex(self, key: NodeKey, where: str | int, tags: tuple[str, ...]) -> None:
        self._urls.discard(where, key)
        if not isinstance(key, str):
            _discard(self._variants, key[0], key)
        for tag in tags:
            _discard(self._tags, tag, key)

    @staticmethod
    def _keys(internals: Iterable[NodeKey]) -> list[CacheKey]:
        return [CacheKey(key) if isinstance(key, str) else CacheKey(*key) for key in internals]


def _tags_of(record: Record) -> tuple[str, ...]:
    return record.tags if isinstance(record, Entry) else ()


def _discard(index: dict[str, set[NodeKey]], name: str, internal: NodeKey) -> None:
    members = index.get(name)
    if members is not None:
        members.discard(internal)
        if not members:
            del index[name]
