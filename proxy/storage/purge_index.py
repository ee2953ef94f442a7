"""Which purges void a record: the part of every `InvalidationLog` that is the same, in memory and bounded."""

from collections.abc import Iterator
from typing import Final, TypeAlias

import structlog

from proxy.storage.base import Purgeable, PurgeId
from proxy.storage.invalidation_log import Purge, PurgeScope, Subscriber

MAX_PURGES: Final = 100_000
"""Purges remembered, each scope, value and hardness once. One of a URL of 30 characters takes 300 bytes: some 30 MB."""

_PREFIX: Final = PurgeScope.PREFIX  # a member by its class takes a quarter of a microsecond
_Name: TypeAlias = tuple[PurgeScope, str, bool]
_log = structlog.get_logger("storage")


class PurgeIndex:
    """The purges seen, and who wants to know of them.

    Only the newest purge of a name counts, so one URL invalidated a thousand times takes one place. When the index is
    full its oldest purge is forgotten, and the floor rises above it: a record older than the floor may have been purged
    by what is forgotten, and is void.

    Args:
        max_purges: how many are remembered.

    Attributes:
        last_seen: the id of the newest purge.
        floor: records with a smaller `purge_id` are void.
        applied: how many purges were applied.
        lost: how often purges were missed, and everything local was dropped for it.
    """

    __slots__ = ("_max_purges", "_newest", "_prefix_lengths", "_subscribers", "applied", "floor", "last_seen", "lost")

    def __init__(self, max_purges: int = MAX_PURGES) -> None:
        self._max_purges = max_purges
        self._newest: dict[_Name, Purge] = {}  # in the order in which they were applied
        self._prefix_lengths: dict[int, int] = {}  # length: how many prefixes of it are in the index
        self._subscribers: list[Subscriber] = []
        self.last_seen: PurgeId = 0
        self.floor: PurgeId = 0
        self.applied = 0
        self.lost = 0

    def __len__(self) -> int:
        return len(self._newest)

    def subscribe(self, apply: Subscriber) -> None:
        """Have `apply` called for each purge, and with None when some were missed."""
        self._subscribers.append(apply)

    def unsubscribe(self, apply: Subscriber) -> None:
        """Have `apply` called no more. Does nothing if it was not subscribed."""
        if apply in self._subscribers:
            self._subscribers.remove(apply)

    def apply(self, purge: Purge) -> None:
        """Take note of `purge`, and tell the subscribers; nothing happens if it, or a newer one of its name, is known.

        A purge may come late: after one that was appended later, but here. Whoever fetched since that one was applied
        did so after both.
        """
        name = (purge.scope, purge.value, purge.soft)
        known = self._newest.get(name)
        if known is not None and known.id >= purge.id:
            return
        if known is not None:
            del self._newest[name]  # and in again at the end: the oldest stand first
        elif purge.scope is _PREFIX:
            length = len(purge.value)
            self._prefix_lengths[length] = self._prefix_lengths.get(length, 0) + 1
        self._newest[name] = purge
        self.last_seen = max(self.last_seen, purge.id)
        if len(self._newest) > self._max_purges:
            self._forget_oldest()
        self.applied += 1
        for subscriber in self._subscribers:
            subscriber(purge)

    def lose(self, floor: PurgeId) -> None:
        """Purges up to `floor` may have been missed: everything older is void, and subscribers drop what they have."""
        _log.warning("purges may have been missed: the local cache is dropped", floor=floor)
        self.raise_floor(floor)
        self.lost += 1
        for subscriber in self._subscribers:
            subscriber(None)

    def raise_floor(self, floor: PurgeId) -> None:
        """Records with a `purge_id` below `floor` are void from now on; new ones are not."""
        self.floor = max(self.floor, floor)
        self.last_seen = max(self.last_seen, floor)

    def newest_match(self, primary: str, record: Purgeable) -> Purge | None:
        """See `InvalidationLog.newest_match`."""
        since = record.purge_id
        if since >= self.last_seen:
            return None
        if since < self.floor:
            return Purge(self.floor, PurgeScope.ALL, "", soft=False, at=0.0)
        return self._newest_of(primary, record, since, soft=False) or self._newest_of(primary, record, since, soft=True)

    def _newest_of(self, primary: str, record: Purgeable, since: PurgeId, *, soft: bool) -> Purge | None:
        newest: Purge | None = None
        for scope, value in self._names(primary, record):
            purge = self._newest.get((scope, value, soft))
            if purge is not None and purge.id > since and (newest is None or purge.id > newest.id):
                newest = purge
        return newest

    def _names(self, primary: str, record: Purgeable) -> Iterator[tuple[PurgeScope, str]]:
        yield PurgeScope.ALL, ""
        yield PurgeScope.KEY, primary
        yield PurgeScope.URL, record.url
        for length in self._prefix_lengths:
            if length <= len(record.url):
                yield PurgeScope.PREFIX, record.url[:length]
        for tag in record.tags:
            yield PurgeScope.TAG, tag

    def _forget_oldest(self) -> None:
        name = next(iter(self._newest))
        purge = self._newest.pop(name)
        self.raise_floor(purge.id)
        if purge.scope is _PREFIX:
            length = len(purge.value)
            self._prefix_lengths[length] -= 1
            if not self._prefix_lengths[length]:
                del self._prefix_lengths[length]

    def stats(self) -> dict[str, object]:
        """Plain numbers for the admin port."""
        return {
            "purges": len(self._newest), "last_seen": self.last_seen, "floor": self.floor, "applied": self.applied,
            "lost": self.lost,
        }  # fmt: skip
