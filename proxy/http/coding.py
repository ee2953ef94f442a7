"""Accept-Encoding (RFC 9110 §12.5.3), read once and brought to a small bucket."""

import re
from functools import lru_cache
from typing import Final

from proxy.http.headers import combined
from proxy.http.message import Headers
from proxy.http.names import ACCEPT_ENCODING

CODINGS: Final = ("br", "zstd", "gzip", "identity")
"""What this proxy can make, the preferred ones first."""

_MEMBER: Final = re.compile(
    r"(?P<coding>[!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:;[ \t]*[qQ]=(?P<q>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?"
)
_SYNONYMS: Final = {"x-gzip": "gzip"}
_KNOWN: Final = frozenset(CODINGS)
_REMEMBERED_LENGTH: Final = 128


def preferences(headers: Headers) -> tuple[str, ...]:
    """The codings that the client accepts, the one it likes best first; equals in the order of `CODINGS`.

    `identity` is among them unless the client rules it out. Without an Accept-Encoding field only `identity` is: any
    coding would do for the letter, but clients that say nothing seldom decode.
    """
    value = combined(headers, ACCEPT_ENCODING)
    if value is None:
        return ("identity",)
    return _remembered(value) if len(value) <= _REMEMBERED_LENGTH else _preferences(value)


def bucket(headers: Headers) -> str:
    """One short text for all Accept-Encoding values that lead to the same choice, for use in keys."""
    return ",".join(preferences(headers))


def weights(value: str) -> dict[str, float]:
    """Each coding named, in lower case, with its weight; members that are malformed are left out."""
    found: dict[str, float] = {}
    for part in value.split(","):
        match = _MEMBER.fullmatch(part.strip(" \t"))
        if match is not None:
            coding = match["coding"].lower()
            found.setdefault(_SYNONYMS.get(coding, coding), float(match["q"] or 1.0))
    return found


def _preferences(value: str) -> tuple[str, ...]:
    named = weights(value)
    star = named.get("*")
    chosen: dict[str, float] = {}
    for coding in CODINGS:
        weight = named.get(coding, star)
        if coding == "identity" and coding not in named:
            # Acceptable unless excluded, but what the client names is what it prefers.
            weight = 0.0 if star == 0.0 else 0.0001
        if weight:
            chosen[coding] = weight
    return tuple(sorted(chosen, key=lambda coding: -chosen[coding]))


_remembered: Final = lru_cache(maxsize=1024)(_preferences)
