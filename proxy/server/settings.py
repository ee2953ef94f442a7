"""`[server]`: the listener that clients reach."""

import ipaddress
import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    WithJsonSchema,
)
from pydantic_settings import NoDecode

from proxy.address import Address, ListenAddress

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
ForwardingFields: TypeAlias = Literal["x-forwarded", "forwarded"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _list(value: Any) -> Any:
    """A list, or a string with commas, which is how a list comes from the environment."""
    return [part for part in re.split(r"[,\s]+", value) if part] if isinstance(value, str) else value


def _lower(value: str) -> str:
    return value.lower()


def _network(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no string; expected an address or a network such as '10.0.0.0/8'")
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"{error}; expected an address or a network such as '10.0.0.0/8'") from error


def _token(value: Any) -> Any:
    if isinstance(value, str) and not _TOKEN.fullmatch(value):
        raise ValueError(f"{value!r} is no token (RFC 9110 §5.6.2)")
    return value


_STRINGS = {"type": "array", "items": {"type": "string"}}
Networks: TypeAlias = Annotated[
    tuple[Annotated[Network, BeforeValidator(_network)], ...],
    NoDecode,
    BeforeValidator(_list),
    PlainSerializer(lambda networks: [str(network) for network in networks], return_type=list[str]),
    WithJsonSchema(_STRINGS),
]
Names: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_lower)], ...], NoDecode, BeforeValidator(_list)]


class ServerSettings(BaseModel):
    """`[server]`.

    Attributes:
        listen: where clients connect.
        backlog: connections the system queues before they are accepted.
        reuse_port: several processes may listen on the port and share its connections.
        max_connections: open client connections; those above are answered 503 and closed.
        keep_alive_timeout_seconds: a connection without a request is closed after this time.
        header_timeout_seconds: from the first byte of a request's head to its last.
        body_timeout_seconds: between two parts of a request's body.
        write_timeout_seconds: how long a client may take nothing of its response before it is cut off.
        tunnel_idle_timeout_seconds: how long a tunnel may be silent in both directions.
        drain_timeout_seconds: how long requests in flight may take to finish at shutdown.
        max_target_bytes, max_field_bytes, max_fields: of a request's head; more is answered 414 or 431.
        max_body_bytes: of a request's body, more is answered 413; None: no limit.
        max_unread_body_bytes: how much of a body that nobody wanted is read so that the connection can be used again.
        trusted_proxies: networks whose forwarding fields and `X-Request-ID` are believed.
        trusted_fields: which forwarding fields those proxies write: `X-Forwarded-*`, or `Forwarded` (RFC 7239). The
            other kind may come from anybody, and is dropped.
        upgrades: protocols that may be tunnelled, in any case; `*` for any but `h2c`, which would carry requests past
            every plugin and is never tunnelled.
        fast_lane_max_bytes: what the answers may take that are kept ready to be sent; 0: none are kept.
        name: pseudonym of this proxy in `Via` (RFC 9110 §7.6.3).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    listen: ListenAddress = Address("127.0.0.1", 8080)
    backlog: PositiveInt = 2048
    reuse_port: bool = False
    max_connections: PositiveInt = 10_000
    keep_alive_timeout_seconds: PositiveFloat = 75.0
    header_timeout_seconds: PositiveFloat = 30.0
    body_timeout_seconds: PositiveFloat = 60.0
    write_timeout_seconds: PositiveFloat = 60.0
    tunnel_idle_timeout_seconds: PositiveFloat = 3600.0
    drain_timeout_seconds: PositiveFloat = 30.0
    max_target_bytes: Annotated[int, Field(ge=64)] = 16_384
    max_field_bytes: Annotated[int, Field(ge=64)] = 16_384
    max_fields: PositiveInt = 128
    max_body_bytes: NonNegativeInt | None = None
    max_unread_body_bytes: NonNegativeInt = 65_536
    trusted_proxies: Networks = ()
    trusted_fields: ForwardingFields = "x-forwarded"
    upgrades: Names = ("*",)
    fast_lane_max_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(16 << 20)
    name: Annotated[str, BeforeValidator(_token)] = "sidecache"
