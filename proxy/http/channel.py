"""A raw byte channel: what a connection becomes when it has switched protocols (RFC 9110 §7.8)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from proxy.http.message import Response


class Channel(ABC):
    """Bytes in both directions, each with an end of its own. Whoever holds a channel closes it."""

    __slots__ = ()

    @abstractmethod
    async def read(self) -> bytes:
        """The next bytes, as soon as there are any; empty at the end, then always.

        Raises:
            OSError: the connection is broken.
        """

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send `data`, waiting while the peer is slow to take it.

        Raises:
            OSError: the connection is broken.
        """

    @abstractmethod
    async def write_eof(self) -> None:
        """End this direction; the other one may go on. Does nothing the second time.

        Raises:
            OSError: the connection is broken.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """End both directions and let go of the connection. Safe to call twice, and at any moment."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An upstream that has switched protocols.

    Attributes:
        response: the 101 response; hop-by-hop fields already removed.
        protocol: what the upstream's `Upgrade` field says.
        channel: the connection from there on; the first bytes read are those right behind the response's head.
    """

    response: Response
    protocol: str
    channel: Channel
