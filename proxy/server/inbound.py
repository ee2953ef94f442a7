"""From what aiohttp parsed to a `Request`.

Rule: what makes a request's head unacceptable, beyond what aiohttp's parser refuses, is decided in this file.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy, istr
from typing_extensions import override

from proxy.errors import ClientError, PayloadTooLargeError
from proxy.http.body import Body, BodyStream
from proxy.http.headers import HOP_BY_HOP, PROXY_FIELDS, connection_options, split_list, via
from proxy.http.message import Request
from proxy.http.names import CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE, VIA, X_REQUEST_ID
from proxy.server.forwarding import Forwarding
from proxy.server.raw import RawRequest
from proxy.server.refusals import NotImplementedRequestError, RequestTimeoutError, VersionNotSupportedError
from proxy.server.settings import ServerSettings

_ABSOLUTE: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::(?P<port>[0-9]{0,5}))?")
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
_EVASIVE_PROTOCOLS: Final = frozenset({"h2c", "h2", "http", "tls"})
"""Protocols whose requests would pass every plugin unseen; `h2c` is a known way of smuggling."""

_ENDED: Final = tuple(map(istr, HOP_BY_HOP | PROXY_FIELDS))
_VERSIONS: Final[Mapping[HttpVersion, tuple[int, int]]] = {HttpVersion10: (1, 0), HttpVersion11: (1, 1)}
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


class RequestBody(BodyStream):
    """A request's body as it arrives. aiohttp's reader stops reading from the client while nobody takes it.

    Args:
        timeout_seconds: between two parts.
        max_bytes: None: no limit.
        ask: sends `100 Continue`; called when the body is first wanted, if the client waits for it.

    Attributes:
        failed: the body broke a limit or the rules; the connection has no future.
    """

    __slots__ = ("_ask", "_closed", "_content", "_max_bytes", "_seen", "_timeout_seconds", "failed")

    def __init__(
        self, content: StreamReader, *, timeout_seconds: float, max_bytes: int | None, ask: Callable[[], None] | None
    ) -> None:
        self._content = content
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._ask = ask
        self._seen = 0
        self._closed = False
        self.failed = False

    @property
    def held_back(self) -> bool:
        """Whether the client still waits for `100 Continue`."""
        return self._ask is not None and not self._content.total_bytes and not self._content.is_eof()

    def ask(self) -> None:
        """Tell the client to send the body, if it waits to be told.

        Raises:
            ClientError: it has left.
        """
        if not self.held_back:
            self._ask = None
        if self._ask is not None:
            ask, self._ask = self._ask, None
            try:
                ask()
            except ConnectionError as error:
                raise ClientError("the client left before it sent its request's body") from error

    @override
    async def __anext__(self) -> bytes:
        if self._closed:
            raise ClientError("the request's body is not wanted any more")
        self.ask()
        try:
            data = await _read(self._content, self._timeout_seconds)
        except ClientError:
            self.failed = True
            raise
        if not data:
            raise StopAsyncIteration
        self._seen += len(data)
        if self._max_bytes is not None and self._seen > self._max_bytes:
            self.failed = True
            raise PayloadTooLargeError(f"the request's body is longer than {self._max_bytes} bytes")
        return data

    @override
    async def aclose(self) -> None:
        self._closed = True


async def _read(content: StreamReader, timeout_seconds: float) -> bytes:
    try:
        if data := content.read_nowait():
            return data  # without a timer: much of a body is here when it is asked for
        async with asyncio.timeout(timeout_seconds):
            return await content.readany()
    except TimeoutError:
        raise RequestTimeoutError("the request's body took too long") from None
    except Exception as error:  # aiohttp sets whatever it got: its own errors, OSError, RuntimeError
        raise ClientError("the request's body is malformed or incomplete") from error


async def discard(content: StreamReader, max_bytes: int, timeout_seconds: float) -> bool:
    """Read the rest of a body that nobody wants; whether its end was reached within the limits."""
    seen = 0
    try:
        async with asyncio.timeout(timeout_seconds):
            while not content.is_eof():
                seen += len(await _read(content, timeout_seconds))
                if seen > max_bytes:
                    return False
    except (TimeoutError, ClientError):
        return False
    return True


class RequestReader:
    """Makes `Request`s.

    Args:
        make_id: a new request id.
    """

    def __init__(self, settings: ServerSettings, make_id: Callable[[], str]) -> None:
        self._settings = settings
        # Read for each request; an attribute of a pydantic model takes its time.
        self._name = settings.name
        self._max_body_bytes = settings.max_body_bytes
        self._make_id = make_id
        self.forwarding = Forwarding(settings.trusted_proxies, settings.trusted_fields)

    def read(self, raw: RawRequest, send: Callable[[bytes], None], known_id: str = "") -> tuple[Request, str]:
        """The request, and its id.

        Args:
            send: writes to the client, for `100 Continue`.
            known_id: that it has been given already.

        Raises:
            ClientError: the request cannot be served.
        """
        version = _VERSIONS.get(raw.version)
        if version is None:
            raise VersionNotSupportedError("this server speaks HTTP/1.1 and HTTP/1.0")
        if raw.method == "CONNECT":
            raise NotImplementedRequestError("this server opens no tunnels to other hosts")
        peer = raw.protocol.peer
        trusted = self.forwarding.trusts(peer)
        scheme = "http"  # there is no TLS here
        host, target = _host_and_target(raw, scheme)
        headers = CIMultiDict(raw.headers)
        for option in connection_options(raw.headers) if CONNECTION in headers else ():
            headers.popall(option, None)
        for name in filter(headers.__contains__, _ENDED):
            del headers[name]
        headers[HOST] = host
        origin = self.forwarding.apply(headers, peer=peer, scheme=scheme, host=host)
        headers[VIA] = via(raw.headers, version, self._name)
        request_id = known_id or self.request_id(headers.get(X_REQUEST_ID, "") if trusted else "")
        headers[X_REQUEST_ID] = request_id
        body = self._body(raw, version, send)
        if EXPECT in headers and not (isinstance(body, RequestBody) and body.held_back):
            del headers[EXPECT]  # who does not wait to be told asks for nothing (RFC 9110 §10.1.1)
        scheme, host = origin.scheme, authority(origin.host, origin.scheme) or host
        fields = CIMultiDictProxy(headers)
        return Request(raw.method, target, scheme, host, fields, body, origin.client, version), request_id

    def request_id(self, received: str) -> str:
        """`received`, from a trusted peer, if it can be one; else a new one."""
        return received if received and _SANE_ID.fullmatch(received) else self._make_id()

    def _body(self, raw: RawRequest, version: tuple[int, int], send: Callable[[bytes], None]) -> Body:
        coding = raw.headers.get(TRANSFER_ENCODING)
        if coding is not None:
            if version < (1, 1):
                raise ClientError("HTTP/1.0 knows no Transfer-Encoding")  # RFC 9112 §6.1: faulty framing
            if coding.strip().lower() != "chunked":
                raise NotImplementedRequestError("this server knows no transfer coding but chunked")
        if raw.whole == b"":
            return b""
        limit = self._max_body_bytes
        content = raw.content
        if limit is not None and int(raw.headers.get(CONTENT_LENGTH, "0")) > limit:
            raise PayloadTooLargeError(f"the request's body is longer than {limit} bytes")
        if raw.whole is not None:
            if limit is not None and len(raw.whole) > limit:
                raise PayloadTooLargeError(f"the request's body is longer than {limit} bytes")
            return raw.whole
        expects = version >= (1, 1) and raw.headers.get(EXPECT, "").lower() == "100-continue"
        return RequestBody(
            content,
            timeout_seconds=self._settings.body_timeout_seconds,
            max_bytes=limit,
            ask=(lambda: send(b"HTTP/1.1 100 Continue\r\n\r\n")) if expects else None,
        )


def wanted_protocol(raw: RawRequest, allowed: tuple[str, ...]) -> str | None:
    """The protocol that the client asks to switch to, if it is one that may be tunnelled (RFC 9110 §7.8)."""
    offer = raw.headers.get(UPGRADE)
    if offer is None or raw.version != (1, 1):
        return None
    if "upgrade" not in connection_options(raw.headers):
        return None
    for protocol in split_list(offer):
        name = protocol.lower()
        if name.partition("/")[0] not in _EVASIVE_PROTOCOLS and (name in allowed or "*" in allowed):
            return protocol
    return None


def _host_and_target(raw: RawRequest, scheme: str) -> tuple[str, str]:
    target = raw.raw_path
    if target.startswith("/") or target == "*":
        return _host_field(raw, scheme), target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or absolute["scheme"].lower() not in _DEFAULT_PORTS:
        raise ClientError("the request target is neither a path nor an http or https URI")
    host = authority(absolute["authority"], scheme)
    if host is None:
        raise ClientError("the request target's authority is no host")
    rest: str = absolute["rest"]
    if not rest.startswith("/"):
        rest = "*" if raw.method == "OPTIONS" and not rest else "/" + rest
    return host, rest


def _host_field(raw: RawRequest, scheme: str) -> str:
    field = raw.headers.get(HOST)
    if field is None:  # HTTP/1.0; aiohttp's parser demands it of HTTP/1.1
        name = raw.protocol.sockname
        if not isinstance(name, tuple):
            return "localhost"
        field = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    host = authority(field, scheme)
    if host is None:
        raise ClientError("the Host field is no host")
    return host


@lru_cache(maxsize=1024)
def authority(text: str, scheme: str) -> str | None:
    """`text` as a host in lower case, with its port unless that is the scheme's own; None if it is no host."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    port = match["port"]
    if port and int(port) > 65535:
        return None
    host: str = match["host"].lower()
    return f"{host}:{port}" if port and port != _DEFAULT_PORTS[scheme] else host
