"""Invalidation is a log, not a scan.

A purge appends one record and gets an id. An entry carries the id of the last record its sidecar had seen when its
upstream request began; it is void if a matching record is newer. So a purge costs the same for one object or ten
million, and beats a slow fetch that began before it.
"""

import json
from collections.abc import Callable
from typing import Protocol, TypeAlias

from proxy.storage.base import Purgeable, PurgeId
from proxy.values import IdentityEnum, value


class PurgeScope(IdentityEnum):
    """What a purge's value names."""

    KEY = "key"  # a primary cache key
    URL = "url"  # a target URI, every method and variant of it
    PREFIX = "prefix"  # the beginning of target URIs
    TAG = "tag"
    ALL = "all"  # no value


@value
class Purge:
    """One record of the log.

    Attributes:
        soft: what matches is stale from now on, not gone: it may be revalidated, or serve while that is under way.
        at: wall seconds.
    """

    id: PurgeId
    scope: PurgeScope
    value: str
    soft: bool
    at: float


def dump_purge(purge: Purge) -> bytes:
    """`purge` without its id as ASCII; a value that is no Unicode comes out as it went in."""
    return json.dumps((purge.scope.value, purge.value, purge.soft, purge.at)).encode("ascii")


def load_purge(purge_id: PurgeId, dumped: bytes) -> Purge:
    """The purge that `dump_purge` made `dumped` of.

    Raises:
        ValueError: it was made of none.
    """
    try:
        scope, value, soft, at = json.loads(dumped)
    except TypeError:
        raise ValueError("a purge has four parts") from None
    if not isinstance(value, str) or not isinstance(soft, bool) or type(at) not in {int, float}:
        raise ValueError("a purge has a text, a truth value and a time")
    return Purge(purge_id, PurgeScope(scope), value, soft, float(at))


@value
class Appended:
    """What became of a purge.

    Attributes:
        shared: it reached the shared log. If not, it holds here and is sent on as soon as the log can be reached.
    """

    purge: Purge
    shared: bool


Subscriber: TypeAlias = Callable[[Purge | None], None]


class InvalidationLog(Protocol):
    """The log of purges, and what follows from it."""

    @property
    def last_seen(self) -> PurgeId:
        """The newest record applied here; to be read when an upstream request begins."""
        ...

    @property
    def ready(self) -> bool:
        """The log has been read to its end at least once: what a second tier holds can be judged."""
        ...

    def subscribe(self, apply: Subscriber) -> None:
        """Have `apply` called for each record as it is seen; None: some were missed, drop everything local."""
        ...

    def unsubscribe(self, apply: Subscriber) -> None:
        """Have `apply` called no more. Does nothing if it was not subscribed."""
        ...

    def newest_match(self, primary: str, record: Purgeable) -> Purge | None:
        """The purge that voids `record`, stored under the primary key `primary` or a variant of it.

        Returns:
            The newest hard one after `record.purge_id`; without one, the newest soft one after it; without one, None.
        """
        ...

    def refresh(self) -> None:
        """Apply what others have appended, as far as that can be seen without waiting."""
        ...

    def refresh_as_of_look(self) -> None:
        """The same, but what was appended since L2 was last looked at (`SecondTier.look`) may be left out."""
        ...

    async def append(self, scope: PurgeScope, value: str, *, soft: bool = False) -> Appended:
        """Record a purge and apply it here before returning."""
        ...

    async def adopt(self, appended: Appended) -> Purge:
        """Apply, before returning, what another process has appended to its log, whose cache is to follow this one's.

        Returns:
            The purge as this log has it.
        """
        ...

    async def start(self) -> None:
        """Begin to follow what others append."""
        ...

    async def close(self) -> None:
        """Stop. Safe after a failed start, and to call twice."""
        ...

    def stats(self) -> dict[str, object]:
        """What the admin port shows of the log."""
        ...
