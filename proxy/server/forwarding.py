"""Whom to believe about the client: `Forwarded` (RFC 7239) and the `X-Forwarded-*` fields.

Rule: what a peer may say about where a request came from, and what the upstream is told, is decided in this file. A
peer that is not trusted is the client, and all that it says is dropped. A trusted one is a proxy: the client is the
last address in its list that is no trusted proxy itself.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from multidict import CIMultiDict, istr

from proxy.server.settings import ForwardingFields, Network

_FORWARDED: Final = istr("Forwarded")
_FORWARDED_FOR: Final = istr("X-Forwarded-For")
_FORWARDED_PROTO: Final = istr("X-Forwarded-Proto")
_FORWARDED_HOST: Final = istr("X-Forwarded-Host")
_FIELDS: Final = (
    _FORWARDED,
    _FORWARDED_FOR,
    _FORWARDED_PROTO,
    _FORWARDED_HOST,
    istr("X-Forwarded-Port"),
    istr("X-Real-IP"),
)
_REMEMBERED_HOST: Final = 256
_PAIR: Final = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*(;|,|$)')


@dataclass(frozen=True, slots=True)
class Hop:
    """What one proxy says of who asked it.

    Attributes:
        address: IP address; empty when it is hidden or no address.
        scheme, host: empty when it does not say.
    """

    address: str
    scheme: str
    host: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from, as far as it is known.

    Attributes:
        client: IP address; empty for a Unix socket.
        scheme, host: what the client used; the host as received, not yet checked.
    """

    client: str
    scheme: str
    host: str


class Forwarding:
    """Reads and writes the forwarding fields.

    Args:
        trusted: networks of the proxies in front of this one.
        believed: which fields those proxies write. Only one kind is believed: a proxy passes on the kind that it does
            not know as its client sent it.
    """

    def __init__(self, trusted: Sequence[Network], believed: ForwardingFields = "x-forwarded") -> None:
        self._networks = tuple(trusted)
        self._chain = _forwarded_chain if believed == "forwarded" else _x_forwarded_chain
        self._chain_field = b"forwarded" if believed == "forwarded" else b"x-forwarded-for"
        self._remembered_client = lru_cache(maxsize=4096)(self._client)
        # The same clients and proxies come again; made anew, the fields take 12 µs.
        self._tell = lru_cache(maxsize=4096)(self._make_fields)
        self.trusts = lru_cache(maxsize=4096)(self._trusts)

    def _trusts(self, address: str) -> bool:
        """Whether `address` is a trusted proxy's; a peer without one, on a Unix socket, is trusted if any is."""
        if not self._networks:
            return False
        if not address:
            return True
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self._networks)

    def apply(self, headers: CIMultiDict[str], *, peer: str, scheme: str, host: str) -> Origin:
        """Find out where the request came from, and put into `headers` what the upstream is to be told.

        `X-Forwarded-For` and `Forwarded` then name each address from the client to the peer, the latter with the host
        and scheme that the client used.
        """
        trusted = self.trusts(peer)
        chain = self._chain(headers) if trusted else []
        for name in filter(headers.__contains__, _FIELDS):
            headers.popall(name)
        tell = self._tell if len(host) <= _REMEMBERED_HOST else self._make_fields
        origin, fields = tell(tuple(chain), peer, scheme, host)
        headers.extend(fields)
        return origin

    def _make_fields(
        self, chain: tuple[Hop, ...], peer: str, scheme: str, host: str
    ) -> tuple[Origin, tuple[tuple[str, str], ...]]:
        """Where the request came from, and the fields that say so to the upstream."""
        origin = self._find(chain, Origin(peer, scheme, host))
        addresses = [hop.address or "unknown" for hop in chain]
        if peer or not chain:
            addresses.append(peer or "unknown")
        first, *others = (f"for={_node(address)}" for address in addresses)
        return origin, (
            (_FORWARDED_FOR, ", ".join(addresses)),
            (_FORWARDED_PROTO, origin.scheme),
            (_FORWARDED_HOST, origin.host),
            (_FORWARDED, ", ".join([f"{first};host={_quote(origin.host)};proto={origin.scheme}", *others])),
        )

    def client(self, peer: str, read_field: Callable[[bytes], str | None]) -> str:
        """The client's address alone, as `apply` finds it, for a request whose fields `read_field` reads."""
        value = read_field(self._chain_field) if self.trusts(peer) else None
        return self._remembered_client(peer, value) if value is not None else peer

    def _client(self, peer: str, value: str) -> str:
        chain = self._chain(CIMultiDict([(self._chain_field.decode(), value)]))
        return self._find(chain, Origin(peer, "http", "")).client

    def _find(self, chain: Sequence[Hop], seen: Origin) -> Origin:
        """The client's end: the last hop that is no trusted proxy's, or the first one of all."""
        if not chain:
            return seen
        hop = chain[0]
        for place in range(len(chain) - 1, 0, -1):
            if not chain[place].address or not self.trusts(chain[place].address):
                hop = chain[place]
                break
        scheme = hop.scheme.lower()
        return Origin(
            hop.address or seen.client, scheme if scheme in {"http", "https"} else seen.scheme, hop.host or seen.host
        )


def peer_address(peername: object) -> str:
    """The address in a socket address; empty for a Unix socket."""
    return str(peername[0]) if isinstance(peername, tuple) else ""


def _forwarded_chain(headers: CIMultiDict[str]) -> list[Hop]:
    elements = parse_forwarded(", ".join(headers.getall("Forwarded", ())))
    return [Hop(_address(part.get("for", "")), part.get("proto", ""), part.get("host", "")) for part in elements]


def _x_forwarded_chain(headers: CIMultiDict[str]) -> list[Hop]:
    addresses = [_address(part) for part in _split(headers, "X-Forwarded-For")]
    schemes = _split(headers, "X-Forwarded-Proto")
    hosts = _split(headers, "X-Forwarded-Host")
    count = len(addresses)
    if not count and (schemes or hosts):
        addresses, count = [""], 1
    return [
        Hop(address, _at(schemes, place, count), _at(hosts, place, count)) for place, address in enumerate(addresses)
    ]


def _at(values: Sequence[str], place: int, count: int) -> str:
    """The value for a place among `count`; the last one where proxies have overwritten the list and not added to it."""
    if not values:
        return ""
    return values[place] if len(values) == count else values[-1]


def parse_forwarded(field: str) -> list[dict[str, str]]:
    """The elements of a `Forwarded` field, names in lower case; empty when the field is malformed (RFC 7239 §4)."""
    elements: list[dict[str, str]] = [{}]
    place = 0
    while place < len(field):
        pair = _PAIR.match(field, place)
        if pair is None:
            return []
        name, quoted, token, end = pair.groups()
        elements[-1].setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else token)
        place = pair.end()
        if end == ",":
            elements.append({})
    return [element for element in elements if element]


def _split(headers: CIMultiDict[str], name: str) -> list[str]:
    return [part for value in headers.getall(name, ()) for part in map(str.strip, value.split(",")) if part]


def _address(node: str) -> str:
    """The IP address of a node, without port and brackets; empty for what is none (RFC 7239 §6)."""
    if node.startswith("["):
        node = node[1:].partition("]")[0]
    elif node.count(":") == 1:
        node = node.partition(":")[0]
    try:
        return str(ipaddress.ip_address(node))
    except ValueError:
        return ""


def _node(address: str) -> str:
    return f'"[{address}]"' if ":" in address else address


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
