"""Where Redis is, in one line of configuration."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

DEFAULT_PORT: Final = 6379
DEFAULT_SENTINEL_PORT: Final = 26379


class RedisKind(Enum):
    """How the servers are organised."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES: Final = {
    "redis": (RedisKind.STANDALONE, False),
    "rediss": (RedisKind.STANDALONE, True),
    "unix": (RedisKind.STANDALONE, False),
    "redis+sentinel": (RedisKind.SENTINEL, False),
    "rediss+sentinel": (RedisKind.SENTINEL, True),
    "redis+cluster": (RedisKind.CLUSTER, False),
    "rediss+cluster": (RedisKind.CLUSTER, True),
}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed URL.

    Attributes:
        hosts: (host, port) of the server, of the sentinels, or of some nodes of the cluster; empty for a socket.
        socket: path of a Unix socket, or empty.
        service: the name that the sentinels know the server by, or empty.
        tls: whether connections to the data servers are encrypted.
    """

    kind: RedisKind
    hosts: tuple[tuple[str, int], ...]
    socket: str = ""
    service: str = ""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False


def parse_redis_url(url: str) -> RedisAddress:
    """Read a URL. User and password are percent-decoded.

    Raises:
        ValueError: it cannot be used; the text says why, and does not repeat the password.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"expected a URL that begins with {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    kind, tls = _SCHEMES[parts.scheme]
    credentials, _, places = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    user, secret = unquote(username), unquote(password)
    if parts.fragment:
        raise ValueError("a '#' in the password must be written %23")
    if parts.scheme == "unix":
        if not parts.path.strip("/") or places:
            raise ValueError("expected unix:///path/to/socket, with ?db=1 for another database than 0")
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
        if set(query) - {"db"}:
            raise ValueError("a unix:// URL takes no parameter but db")
        database = _database(query.get("db", ["0"])[-1])
        return RedisAddress(kind, (), unquote(parts.path), "", database, user, secret)
    if parts.query:
        raise ValueError("parameters after '?' are not understood")
    hosts = _hosts(places, DEFAULT_SENTINEL_PORT if kind is RedisKind.SENTINEL else DEFAULT_PORT)
    path = [segment for segment in parts.path.split("/") if segment]
    match kind:
        case RedisKind.STANDALONE:
            if len(hosts) != 1:
                raise ValueError("expected one host; several belong to redis+sentinel:// or redis+cluster://")
            if len(path) > 1:
                raise ValueError("expected redis://host:port/database")
            return RedisAddress(kind, hosts, "", "", _database(path[0] if path else "0"), user, secret, tls=tls)
        case RedisKind.SENTINEL:
            if not 1 <= len(path) <= 2:
                raise ValueError("expected redis+sentinel://host:port,host:port/service/database")
            database = _database(path[1] if len(path) == 2 else "0")
            return RedisAddress(kind, hosts, "", unquote(path[0]), database, user, secret, tls=tls)
        case RedisKind.CLUSTER:
            if path and path != ["0"]:
                raise ValueError("a cluster has the database 0 alone")
            return RedisAddress(kind, hosts, "", "", 0, user, secret, tls=tls)


def _database(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ValueError("expected a database number after the host")
    return int(text)


def _hosts(places: str, default_port: int) -> tuple[tuple[str, int], ...]:
    return tuple(_host(place, default_port) for place in places.split(","))


def _host(place: str, default_port: int) -> tuple[str, int]:
    if place.startswith("["):  # an IPv6 address
        host, closed, rest = place[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError("expected [address]:port")
        port = rest[1:]
    else:
        host, _, port = place.partition(":")
    if not host:
        raise ValueError("expected host:port")
    if not port:
        return host, default_port
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("expected a port between 1 and 65535")
    return host, int(port)
