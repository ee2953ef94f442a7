"""What the logs that several processes share have in common: purges wait when the log cannot be reached, and are sent
on when it can.

Ids grow with time, milliseconds in their upper bits: a purge that could only be applied here gets the next id after the
last one seen, which is below any that the shared log gives out later.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import Final

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential

from proxy.clock import Clock
from proxy.storage.base import PurgeId
from proxy.storage.invalidation_log import Appended, Purge, PurgeScope, Subscriber
from proxy.storage.purge_index import MAX_PURGES, PurgeIndex
from proxy.storage.second_tier import TierFailedError
from proxy.storage.stopping import stop
from proxy.tasks import Tasks

MAX_PENDING: Final = 10_000
FIRST_RETRY_SECONDS: Final = 0.1
LAST_RETRY_SECONDS: Final = 5.0

SEQUENCE_BITS: Final = 20
"""Lower bits of an id, which count within its millisecond."""

_log = structlog.get_logger("storage")


def purge_id(milliseconds: int, sequence: int) -> PurgeId:
    """The id of the `sequence`-th purge of a millisecond since the epoch."""
    return (milliseconds << SEQUENCE_BITS) + sequence


class SharedLog(ABC):
    """An `InvalidationLog` that others append to as well.

    Args:
        tasks: where purges that could not be sent are tried again.
        timeout_seconds: how long `append` waits for the shared log before it lets the purge follow later.

    Attributes:
        ready, newest_match: see `InvalidationLog`. Each look at L2 asks for both, so there is no step between.
    """

    def __init__(self, clock: Clock, tasks: Tasks, *, timeout_seconds: float, max_purges: int = MAX_PURGES) -> None:
        self._clock = clock
        self._tasks = tasks
        self._timeout_seconds = timeout_seconds
        self.ready = False
        self._index = PurgeIndex(max_purges)
        self.newest_match = self._index.newest_match
        self._pending: dict[tuple[PurgeScope, str, bool], Purge] = {}
        self._sender: asyncio.Task[None] | None = None

    @property
    def last_seen(self) -> PurgeId:
        """See `InvalidationLog.last_seen`."""
        return self._index.last_seen

    @property
    def pending(self) -> int:
        """Purges that hold here and have not reached the shared log."""
        return len(self._pending)

    def subscribe(self, apply: Subscriber) -> None:
        """See `InvalidationLog.subscribe`."""
        self._index.subscribe(apply)

    def unsubscribe(self, apply: Subscriber) -> None:
        """See `InvalidationLog.unsubscribe`."""
        self._index.unsubscribe(apply)

    @abstractmethod
    def refresh(self) -> None:
        """See `InvalidationLog.refresh`."""

    def refresh_as_of_look(self) -> None:
        """See `InvalidationLog.refresh_as_of_look`."""
        self.refresh()

    @abstractmethod
    async def start(self) -> None:
        """See `InvalidationLog.start`."""

    @abstractmethod
    async def _send(self, purge: Purge) -> PurgeId:
        """Append `purge` to the shared log; the id it got there.

        Raises:
            TierFailedError: the log cannot be reached. The purge may have arrived all the same.
        """

    async def append(self, scope: PurgeScope, value: str, *, soft: bool = False) -> Appended:
        """See `InvalidationLog.append`. Waits for the shared log, but never longer than the time budget."""
        purge = Purge(0, scope, value, soft, self._clock.wall())
        if not self._pending:  # else the log is out of reach, and this one waits in the same line
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    sent = await self._send(purge)
            except (TierFailedError, TimeoutError) as error:
                _log.warning("a purge holds here alone until the shared log can be reached", error=str(error))
            else:
                purge = Purge(sent, scope, value, soft, purge.at)
                self._index.apply(purge)
                return Appended(purge, shared=True)
        purge = Purge(self._index.last_seen + 1, scope, value, soft, purge.at)
        self._index.apply(purge)
        self._keep(purge)
        return Appended(purge, shared=False)

    async def adopt(self, appended: Appended) -> Purge:
        """See `InvalidationLog.adopt`."""
        purge = appended.purge
        if not appended.shared:  # its id is of the other process alone
            return (await self.append(purge.scope, purge.value, soft=purge.soft)).purge
        # It will come again from the shared log, and is known then. That it may be applied before others that stand
        # before it is as with a purge of our own: see `PurgeIndex.apply`.
        self._index.apply(purge)
        return purge

    def _keep(self, purge: Purge) -> None:
        self._pending[purge.scope, purge.value, purge.soft] = purge
        if len(self._pending) > MAX_PENDING:
            # What others would have to drop is too much to remember: they drop everything.
            _log.warning("too many purges wait for the shared log: everything is purged instead")
            everything = Purge(purge.id, PurgeScope.ALL, "", soft=False, at=purge.at)
            self._pending = {(PurgeScope.ALL, "", False): everything}
        if self._sender is None:
            self._sender = self._tasks.start("purge sender", self._send_pending())

    async def _send_pending(self) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((TierFailedError, TimeoutError)),
            wait=wait_exponential(multiplier=FIRST_RETRY_SECONDS, max=LAST_RETRY_SECONDS),
        )
        try:
            while self._pending:
                name, purge = next(iter(self._pending.items()))
                await retrying(self._send_in_time, purge)
                if self._pending.get(name) is purge:  # else it was made again meanwhile, and is to be sent again
                    del self._pending[name]
        finally:
            self._sender = None
        _log.info("all purges have reached the shared log")

    async def _send_in_time(self, purge: Purge) -> PurgeId:
        async with asyncio.timeout(max(1.0, self._timeout_seconds)):
            return await self._send(purge)

    async def close(self) -> None:
        """See `InvalidationLog.close`."""
        await stop(self._sender)
        if self._pending:
            _log.error("purges never reached the shared log", purges=len(self._pending))

    def stats(self) -> dict[str, object]:
        """See `InvalidationLog.stats`."""
        return {**self._index.stats(), "pending": len(self._pending)}
