"""The invalidation log of a sidecar that shares its cache with nobody."""

from proxy.clock import Clock
from proxy.storage.base import Purgeable, PurgeId
from proxy.storage.invalidation_log import Appended, Purge, PurgeScope, Subscriber
from proxy.storage.purge_index import MAX_PURGES, PurgeIndex


class MemoryLog:
    """An `InvalidationLog` in memory: it ends with the process, as L1 does."""

    def __init__(self, clock: Clock, *, max_purges: int = MAX_PURGES) -> None:
        self._clock = clock
        self._index = PurgeIndex(max_purges)

    @property
    def last_seen(self) -> PurgeId:
        """See `InvalidationLog.last_seen`."""
        return self._index.last_seen

    @property
    def ready(self) -> bool:
        """See `InvalidationLog.ready`."""
        return True

    def subscribe(self, apply: Subscriber) -> None:
        """See `InvalidationLog.subscribe`."""
        self._index.subscribe(apply)

    def unsubscribe(self, apply: Subscriber) -> None:
        """See `InvalidationLog.unsubscribe`."""
        self._index.unsubscribe(apply)

    def newest_match(self, primary: str, record: Purgeable) -> Purge | None:
        """See `InvalidationLog.newest_match`."""
        return self._index.newest_match(primary, record)

    def refresh(self) -> None:
        """Nobody else appends."""

    def refresh_as_of_look(self) -> None:
        """See `InvalidationLog.refresh_as_of_look`."""

    async def append(self, scope: PurgeScope, value: str, *, soft: bool = False) -> Appended:
        """See `InvalidationLog.append`."""
        purge = Purge(self._index.last_seen + 1, scope, value, soft, self._clock.wall())
        self._index.apply(purge)
        return Appended(purge, shared=True)

    async def adopt(self, appended: Appended) -> Purge:
        """See `InvalidationLog.adopt`. Ids of another process's memory mean nothing here."""
        purge = appended.purge
        return (await self.append(purge.scope, purge.value, soft=purge.soft)).purge

    async def start(self) -> None:
        """Nobody else appends."""

    async def close(self) -> None:
        """There is nothing to let go of."""

    def stats(self) -> dict[str, object]:
        """See `InvalidationLog.stats`."""
        return {"kind": "memory", **self._index.stats()}
