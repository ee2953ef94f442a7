"""Vary: which request fields select a stored response, and the part of the key that they make (RFC 9111 §4.1)."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from proxy.http.headers import combined, split_list
from proxy.http.message import Headers

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_WEIGHT: Final = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)
_PLAIN: Final = re.compile(r'[^"]+')
_ABSENT: Final = "-"
_PRESENT: Final = "="
_REMEMBERED_LENGTH: Final = 256


def vary_names(headers: Headers) -> tuple[str, ...] | None:
    """The lower-case names of the fields that selected the response, sorted and without repetition.

    Returns:
        None when no later request can be known to match: `*` in any place, or a member that is no field name.
    """
    lines = headers.getall("Vary", None)
    if lines is None:
        return ()
    names: set[str] = set()
    for line in lines:
        for member in line.split(","):
            name = member.strip(" \t").lower()
            if not name:
                continue
            if name == "*" or not _TOKEN.fullmatch(name):
                return None
            names.add(name)
    return tuple(sorted(names))


def variant_key(names: tuple[str, ...], request_headers: Headers) -> str:
    """What the fields `names` of a request select by: equal for requests that match each other (§4.1).

    Lines are combined, and what a field's grammar declares to be without meaning is brought to one form: white space,
    case, and the order of `Accept-*` members of the same weight. A field that is absent differs from an empty one.
    """
    parts: list[str] = []
    for name in names:
        value = combined(request_headers, name)
        # A field value has no line break, so none can pose as another field.
        parts.append(f"{name}{_ABSENT}" if value is None else f"{name}{_PRESENT}{_normal(name, value)}")
    return "\n".join(parts)


def _normal(name: str, value: str) -> str:
    normalise = _GRAMMARS.get(name)
    if normalise is None:
        return value.strip(" \t")
    return _remembered(name, value) if len(value) <= _REMEMBERED_LENGTH else normalise(value)


@lru_cache(maxsize=4096)
def _remembered(name: str, value: str) -> str:
    return _GRAMMARS[name](value)


def _weighted(value: str) -> str:
    """Members by falling weight, then by name; a weight of 1 is not written. Members of weight 0 exclude, and stay."""
    members: dict[str, str] = {}
    for member in split_list(value):
        parts = [part.strip(" \t") for part in member.split(";")]
        weight = 1.0
        kept: list[str] = []
        for part in parts:
            match = _WEIGHT.fullmatch(part)
            if match is not None:
                weight = float(match[1])
            elif part:
                kept.append(part)
        text = ";".join(kept).lower()
        members.setdefault(text if weight == 1.0 else f"{text};q={weight:g}", f"{1 - weight:.3f}")
    return ",".join(sorted(members, key=lambda text: (members[text], text)))


def _media_ranges(value: str) -> str:
    """Parameters of a media type may be quoted, and the case of their values may matter: those stay as sent."""
    return _weighted(value) if _PLAIN.fullmatch(value) and ";" not in _without_weights(value) else _list(value)


def _without_weights(value: str) -> str:
    return re.sub(r";[ \t]*q=[0-9.]*", "", value, flags=re.IGNORECASE)


def _codings(value: str) -> str:
    return _weighted(re.sub(r"\bx-gzip\b", "gzip", value, flags=re.IGNORECASE))


def _list(value: str) -> str:
    return ",".join(split_list(value))


def _case_insensitive(value: str) -> str:
    return value.strip(" \t").lower()


_GRAMMARS: Final[Mapping[str, Callable[[str], str]]] = {
    "accept": _media_ranges,
    "accept-charset": _weighted,
    "accept-encoding": _codings,
    "accept-language": _weighted,
    "cache-control": _list,
    "host": _case_insensitive,
    "origin": _case_insensitive,
    "prefer": _list,
    "save-data": _case_insensitive,
    "upgrade-insecure-requests": _case_insensitive,
    "x-requested-with": _case_insensitive,
}
