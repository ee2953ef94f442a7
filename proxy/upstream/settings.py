"""`[upstream]`: the one application behind the sidecar, and how patient to be with it."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, FilePath, PositiveFloat, PositiveInt, field_validator

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """Where to connect.

    Attributes:
        host: name or address without brackets; empty for a Unix socket.
        path: of a Unix socket.
        authority: for the `Host` field.
    """

    tls: bool
    host: str
    port: int
    path: str
    authority: str


class UpstreamSettings(BaseModel):
    """`[upstream]`.

    Attributes:
        url: `http://host:port`, `https://host:port` or `unix:/path/to.sock`; without a path.
        preserve_host: send the `Host` that the client asked for; else the one of `url`.
        connect_timeout_seconds: for a connection, TLS and look-up of the name included.
        first_byte_timeout_seconds: from the last byte of the request to the response's head.
        idle_timeout_seconds: between two parts of a response, or while the upstream takes nothing of a request.
        pool_wait_seconds: how long a request waits for a connection when all are busy.
        max_connections: open at once.
        max_waiting: requests that wait for one; more are refused at once.
        keep_alive_seconds: how long an unused connection is kept; below the 5 s after which many servers close.
        fresh_for_unsafe_seconds: a request that must not be sent twice takes a connection used this recently, or a new
            one: the longer one was idle, the likelier the upstream is closing it at this moment.
        max_connection_age_seconds: then a connection is not used again, so that changes of DNS are followed.
        expect_timeout_seconds: how long to wait for `100 Continue` before the body is sent all the same.
        max_head_bytes: of a response.
        verify_tls: check the certificate; off only for tests.
        ca_file: certificates to trust instead of the system's.
        health_path: asked for every `health_interval_seconds`; without it health is known from requests alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    url: str
    preserve_host: bool = True
    connect_timeout_seconds: PositiveFloat = 5.0
    first_byte_timeout_seconds: PositiveFloat = 60.0
    idle_timeout_seconds: PositiveFloat = 60.0
    pool_wait_seconds: PositiveFloat = 10.0
    max_connections: PositiveInt = 256
    max_waiting: Annotated[int, Field(ge=0)] = 4096
    keep_alive_seconds: Annotated[float, Field(ge=0, le=300)] = 4.0
    fresh_for_unsafe_seconds: Annotated[float, Field(ge=0, le=300)] = 0.5
    max_connection_age_seconds: PositiveFloat = 300.0
    expect_timeout_seconds: PositiveFloat = 1.0
    max_head_bytes: Annotated[int, Field(ge=1024)] = 65_536
    verify_tls: bool = True
    ca_file: FilePath | None = None
    health_path: Annotated[str, Field(pattern=r"^/[\x21-\x7e]*$")] | None = None
    health_interval_seconds: PositiveFloat = 5.0

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        _parse(url)
        return url

    @property
    def address(self) -> UpstreamAddress:
        """Where to connect."""
        return _parse(self.url)

    def tls_context(self) -> ssl.SSLContext | None:
        """What TLS is to be like; None without TLS."""
        if not self.address.tls:
            return None
        context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file is not None else None)
        context.set_alpn_protocols(["http/1.1"])
        if not self.verify_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


_EXPECTED: Final = "expected 'http://host:port', 'https://host:port' or 'unix:/path/to.sock'"


def _parse(url: str) -> UpstreamAddress:
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if not Path(path).is_absolute():
            raise ValueError(f"{url!r} names no absolute path; {_EXPECTED}")
        return UpstreamAddress(False, "", 0, path, "localhost")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no URL: {error}; {_EXPECTED}") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"{url!r} is no upstream; {_EXPECTED}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("credentials in the URL are not sent to an upstream; set an Authorization field instead")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a path; requests keep the path that the client sent: {_EXPECTED}")
    host = parts.hostname
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{shown}:{port}"
    return UpstreamAddress(parts.scheme == "https", host, port or _DEFAULT_PORTS[parts.scheme], "", authority)
