"""A record in memory, its place in the queue, and who wants to know what becomes of it."""

import sys
import weakref
from typing import Final, Protocol, TypeAlias

from proxy.storage.base import CacheKey, Record, VaryMarker
from proxy.storage.packed import PackedEntry

NodeKey: TypeAlias = str | tuple[str, str]
"""A `CacheKey`: its primary part, and its variant if it has one. A str caches its hash and compares in C: a look-up by
`CacheKey` itself takes 1.3 instead of 0.2 µs.
"""


def node_key(key: CacheKey) -> NodeKey:
    """`key` as nodes have it."""
    return (key.primary, key.variant) if key.variant else key.primary


def primary_of(key: NodeKey) -> str:
    """The primary part."""
    return key if isinstance(key, str) else key[0]


class Watcher(Protocol):
    """Something made of a record, which is worth nothing without it."""

    def void(self) -> None:
        """The record is gone, or is another now."""
        ...


class Use(Protocol):
    """A watched record, for who uses it without asking the store."""

    visited: bool  # to be set at each use: it keeps the record from eviction
    hits: int  # how often it was used; to be added to


class Node:
    """A record and its place in the queue.

    Attributes:
        turn: of the sweep, when it was put.
        looked: how many hits it had when a sweep looked at it last.
    """

    __slots__ = ("hits", "key", "looked", "newer", "older", "record", "size", "turn", "visited", "watchers")

    def __init__(self, key: NodeKey, record: Record | PackedEntry, size: int, turn: int) -> None:
        self.key = key
        self.record = record
        self.size = size
        self.turn = turn
        self.looked = 0
        self.visited = False
        self.hits = 0
        self.newer: Node | None = None
        self.older: Node | None = None
        self.watchers: list[weakref.ref[Watcher]] | None = None

    def is_held(self) -> bool:
        """Whether anybody else refers to the record, or watches it."""
        watched = self.watchers is not None and any(one() is not None for one in self.watchers)
        return watched or _references(self) != _HELD_BY_NOBODY

    def alert(self) -> None:
        """Tell who watches that the record is not what it was."""
        if self.watchers is not None:
            watchers, self.watchers = self.watchers, None
            for reference in watchers:
                watcher = reference()
                if watcher is not None:
                    watcher.void()


def _references(node: Node) -> int:
    record = node.record
    return sys.getrefcount(record)


_HELD_BY_NOBODY: Final = _references(Node("", VaryMarker((), 0, 0.0), 0, 0))
"""`_references` to what only its node refers to: counted, for what a look itself adds depends on the interpreter."""
