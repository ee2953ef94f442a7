"""Whom to believe about the client: `Forwarded` (RFC 7239) and the `X-Forwarded-*` fields.

Rule: what a peer may say about where a request came from, and what the upstream is told, is decided in this file. A
peer that is not trusted is the client, and all that it says is dropped. A trusted one is a proxy: the client is the
last address in its list that is no trusted proxy itself.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from multidict import CIMultiDict

from proxy.server.settings import Network

_FIELDS: Final = (
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Real-IP",
)
_PAIR: Final = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*(;|,|$)')


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
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._networks = tuple(trusted)
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
        """Find out where the request came from, and put into `headers` what the upstream is to be told."""
        if not self.trusts(peer):
            for name in _FIELDS:
                headers.popall(name, None)
            origin = Origin(peer, scheme, host)
            told = ""
        else:
            origin = self._believe(headers, Origin(peer, scheme, host))
            told = ", ".join(headers.popall("X-Forwarded-For", ()))
        headers["X-Forwarded-For"] = f"{told}, {peer}" if told and peer else told or peer or "unknown"
        headers["X-Forwarded-Proto"] = origin.scheme
        headers["X-Forwarded-Host"] = origin.host
        hop = f'for={_node(peer)};host="{host}";proto={scheme}'
        before = headers.popall("Forwarded", ())
        headers["Forwarded"] = ", ".join([*before, hop])
        return origin

    def _believe(self, headers: CIMultiDict[str], seen: Origin) -> Origin:
        elements = parse_forwarded(", ".join(headers.getall("Forwarded", ())))
        if elements:
            chain = [_address(element.get("for", "")) for element in elements]
            place = self._client_place(chain)
            chosen = elements[place]
            return Origin(
                chain[place] or seen.client, _scheme(chosen.get("proto"), seen.scheme), chosen.get("host") or seen.host
            )
        chain = [_address(part) for part in _split(headers, "X-Forwarded-For")]
        schemes = _split(headers, "X-Forwarded-Proto")
        hosts = _split(headers, "X-Forwarded-Host")
        place = self._client_place(chain) if chain else 0
        client = chain[place] if chain else ""
        return Origin(
            client or seen.client,
            _scheme(schemes[place] if len(schemes) == len(chain) else schemes[-1] if schemes else None, seen.scheme),
            (hosts[place] if len(hosts) == len(chain) else hosts[-1]) if hosts else seen.host,
        )

    def _client_place(self, chain: Sequence[str]) -> int:
        for place in range(len(chain) - 1, 0, -1):
            if not chain[place] or not self.trusts(chain[place]):
                return place
        return 0


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


def _scheme(told: str | None, default: str) -> str:
    return told.lower() if told is not None and told.lower() in {"http", "https"} else default


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
    if not address:
        return "unknown"
    return f'"[{address}]"' if ":" in address else address
