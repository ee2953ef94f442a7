"""URLs as operators write them, in the form in which requests and stored responses have them."""

import re
from dataclasses import dataclass
from typing import Final

DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
EXPECTED: Final = "expected an absolute URL such as 'http://api.example/items'"

_URL: Final = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?:#.*)?", re.IGNORECASE)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::(?P<port>[0-9]{0,5}))?")
_TARGET: Final = re.compile(r"/[!-~]*")


@dataclass(frozen=True, slots=True)
class Location:
    """A URL, taken apart as `Request` has it."""

    scheme: str
    host: str
    target: str

    @property
    def url(self) -> str:
        """The whole."""
        return f"{self.scheme}://{self.host}{self.target}"


def parse_host(text: str, scheme: str) -> str:
    """`text` as a host in lower case, with its port unless that is the scheme's own.

    Raises:
        ValueError: it is no host.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None or (match["port"] and int(match["port"]) > 65535):
        raise ValueError(f"{text!r} is no host; expected a name or an address, and perhaps a port")
    host, port = match["host"].lower(), match["port"]
    return f"{host}:{port}" if port and port != DEFAULT_PORTS[scheme] else host


def parse_target(text: str) -> str:
    """`text` as a request target in origin form.

    Raises:
        ValueError: it is none.
    """
    target = text.partition("#")[0]
    if not _TARGET.fullmatch(target):
        raise ValueError(f"{text!r} is no path; it begins with '/', and all but visible ASCII is percent-encoded")
    return target


def parse_url(text: str) -> Location:
    """`text` taken apart. A fragment is dropped, an empty path is `/`; the target stays as it is written.

    Raises:
        ValueError: it is no absolute http or https URL.
    """
    match = _URL.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no URL; {EXPECTED}")
    scheme = match["scheme"].lower()
    rest = match["rest"]
    return Location(
        scheme, parse_host(match["authority"], scheme), parse_target(rest if rest.startswith("/") else f"/{rest}")
    )


def parse_prefix(text: str) -> str:
    """The beginning of URLs: what stands before the path in the form that stored URLs have, the rest as written.

    Raises:
        ValueError: it is not the beginning of an absolute URL up to its path at least: `http://api.example/`.
    """
    match = _URL.fullmatch(text)
    if match is None or not match["rest"].startswith("/") or "#" in text:
        raise ValueError(
            f"{text!r} is no prefix; expected a URL up to some place in its path: 'http://api.example/v1/'"
        )
    return parse_url(text).url
