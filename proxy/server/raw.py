"""What the server reads of a request as aiohttp parsed it."""

from typing import Final, Protocol

from aiohttp import HttpVersion
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy

WHOLE_BODY_BYTES: Final = 65_536
"""A body that has arrived with its head and is not larger goes on as `bytes`: it can be sent again."""


class Peer(Protocol):
    """Addresses of a connection, as its socket has them."""

    @property
    def peer(self) -> str:
        """The client's; empty for a Unix socket."""
        ...

    @property
    def sockname(self) -> object:
        """This server's."""
        ...


class RawRequest:
    """A parsed request. Making one takes 1 µs, a `web.BaseRequest` and what aiohttp puts around it 30.

    Args:
        method, raw_path: method and request target, as sent.
        headers: all fields.
        version: of the message.
        keep_alive: whether the client wants the connection to go on.
        content: the body.
        whole: all of it, if it is here and not too long; None: it is to be read.
        protocol: the connection.
    """

    __slots__ = ("content", "headers", "keep_alive", "method", "protocol", "raw_path", "version", "whole")

    def __init__(
        self,
        method: str,
        raw_path: str,
        headers: CIMultiDictProxy[str],
        version: HttpVersion,
        keep_alive: bool,
        content: StreamReader,
        whole: bytes | None,
        protocol: Peer,
    ) -> None:
        self.method = method
        self.raw_path = raw_path
        self.headers = headers
        self.version = version
        self.keep_alive = keep_alive
        self.content = content
        self.whole = whole
        self.protocol = protocol
