"""What a flight of the cache sets out with, and what it lands with."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeAlias

from plugins.cache.parts import answers
from proxy.http.message import Request, Response
from proxy.pipeline.exchange import Exchange, Tail
from proxy.policy import vary
from proxy.policy.model import Stored
from proxy.policy.reasons import Reason
from proxy.storage.base import CacheKey, Entry, VaryMarker
from proxy.upstream.collapse import SharedBody, SharedReader
from proxy.values import value

FlightKey: TypeAlias = Hashable


@value
class Place:
    """Where the stored response for a request is, or would be.

    Attributes:
        key: of the variant if the resource is known to vary.
        entry: what is stored there, if anything.
        tier: `l1` or `l2`; empty without an entry.
    """

    key: CacheKey
    marker: VaryMarker | None = None
    entry: Entry | None = None
    tier: str = ""


@value
class Kept:
    """A response that is stored, or will be when its body is complete.

    Attributes:
        response: the head as it came, for the client that caused the flight.
        stored: the head as others get it.
        entry: set when the body is complete.
        body: set while it arrives.
        names, variant: what selects this variant; another variant's request may not have it.
        confirmed: the origin answered 304 to our validators.
        shared: it is for others, too. The confirmation that a request with credentials gets may be for it alone.
        found: another sidecar fetched it: who waits is to look again, for it may not be what the request demands.
    """

    response: Response
    stored: Stored
    entry: Entry | None
    body: SharedBody | None
    names: tuple[str, ...]
    variant: str
    status: int
    confirmed: bool = False
    shared: bool = True
    found: bool = False

    def suits(self, request: Request) -> bool:
        """Whether `request` selects this variant, and a part has all that it asks for."""
        if self.found:
            return False
        if self.names and vary.variant_key(self.names, request.headers) != self.variant:
            return False
        return answers(request, self.stored)


@value
class Passed:
    """A response for one client alone."""

    response: Response
    reason: Reason


@value
class Withdrawn:
    """A flight that brings nothing after all: who waits is to look again."""


Landed: TypeAlias = Kept | Passed | Withdrawn


@dataclass(slots=True, eq=False)
class Voyage:
    """What a flight sets out with.

    Attributes:
        exchange: detached; its request is the one that goes upstream.
        status: of the upstream's response; 0 before there is one.
        reader: of a body that arrives, kept for the client that caused the flight: a body that outgrows what is kept
            takes no readers later.
        claimed: becomes True when the client that caused the flight takes a `Passed` response, False when it left.
    """

    exchange: Exchange
    tail: Tail
    place: Place
    status: int = 0
    reader: SharedReader | None = None
    claimed: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def claim(self, taken: bool) -> None:
        """The first word holds. No 1xx response goes to the client after it."""
        if not self.claimed.done():
            self.claimed.set_result(taken)
            self.exchange.informational = None
            if not taken and self.reader is not None:
                self.reader.leave()
