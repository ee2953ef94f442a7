"""What is stored, under which key, and the four verbs of a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol, TypeAlias

from proxy.policy.model import Stored
from proxy.values import value_by_identity

PurgeId: TypeAlias = int
"""The place of a record in the invalidation log; ids grow. 0: before every record."""

_new_tuple: Final = tuple.__new__

NO_FORMS: Final[Mapping[str, bytes]] = {}


class CacheKey(NamedTuple):
    """A key: the resource, and the variant of it when the resource varies.

    A tuple, for it is looked up in a dozen dicts in a request: hashing and comparing a dataclass costs several times
    as much.

    Attributes:
        primary: text made from method, scheme, host, target (and what a route adds); also what a purge by key names.
        variant: empty for the resource itself (an entry, or the `VaryMarker` of one that varies).
    """

    primary: str
    variant: str = ""

    def digest(self) -> bytes:
        """16 bytes that stand for the key in stores with limited key sizes."""
        primary, variant = self
        return blake2b(f"{primary}\0{variant}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


def resource_key(primary: str) -> CacheKey:
    """`CacheKey(primary)` in half the time: that takes a step through Python."""
    return _new_tuple(CacheKey, (primary, ""))


@value_by_identity
class Entry:
    """A stored response.

    Attributes:
        stored: what the policy knows about it.
        body: the complete body (or the part that `stored.content_range` names).
        url: the target URI, for purges by URL and by prefix.
        tags: what the origin tagged it with, for purges by tag.
        purge_id: the last invalidation record that this sidecar had seen when the upstream request began.
        discard_at: wall seconds after which nothing can use it any more, stale or not.
        route: the route's name, for statistics.
        forms: bodies derived from this one (`br`, `gzip`, `zstd`), computed once and kept beside it.
    """

    stored: Stored
    body: bytes
    url: str
    purge_id: PurgeId
    discard_at: float
    tags: tuple[str, ...] = ()
    route: str = ""
    forms: Mapping[str, bytes] = field(default_factory=lambda: NO_FORMS)


@dataclass(frozen=True, slots=True)
class VaryMarker:
    """Stands under the primary key of a resource that varies.

    Attributes:
        names: lower-case field names that select the variant, sorted.
        generation: part of every variant's key; a new one leaves all older variants behind.
        discard_at: wall seconds after which no variant can be of use.
    """

    names: tuple[str, ...]
    generation: int
    discard_at: float
    url: str = ""
    purge_id: PurgeId = 0

    @property
    def tags(self) -> tuple[str, ...]:
        """None: a marker is of no response."""
        return ()


class Purgeable(Protocol):
    """What a purge can be about; see `Entry`."""

    @property
    def url(self) -> str:
        """See `Entry`."""
        ...

    @property
    def tags(self) -> Sequence[str]:
        """See `Entry`."""
        ...

    @property
    def purge_id(self) -> PurgeId:
        """See `Entry`."""
        ...


Record: TypeAlias = Entry | VaryMarker


class Store(Protocol):
    """One place where records are kept. Nothing that goes wrong inside is the caller's business: a failing `get` is a
    miss and a counter, a failing `put` or `delete` is a counter.
    """

    async def get(self, key: CacheKey) -> Record | None:
        """The record under `key`, if there is one that can be read."""
        ...

    async def put(self, key: CacheKey, record: Record) -> None:
        """Keep `record` under `key`, in place of what was there, at least until room or `discard_at` says otherwise."""
        ...

    async def delete(self, key: CacheKey) -> None:
        """Forget what is under `key`."""
        ...

    async def close(self) -> None:
        """Let go of connections and files; what was put is safe. Safe to call twice."""
        ...
