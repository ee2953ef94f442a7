"""Cache-Control (RFC 9111 §5.2), Pragma (§5.4) and targeted fields (RFC 9213) as values.

Nothing here raises. What is duplicated, conflicting or malformed is read as the more cautious of its readings
(RFC 9111 §4.2.1): a response directive that restricts counts even when its argument is wrong, and a time that cannot
be told from the field is zero.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import http_sf

from proxy.http.headers import combined, split_list
from proxy.http.message import Headers, to_wire
from proxy.http.names import CACHE_CONTROL, PRAGMA

DELTA_MAX: Final = 2**31
"""The greatest delta-seconds that is told from greater ones (RFC 9111 §1.2.2)."""

SYNTAX: Final = "*"
"""Stands in `malformed` when the text as a whole has left the grammar: what it permits is not to be believed."""

_REMEMBERED_LENGTH: Final = 256
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MEMBER: Final = re.compile(
    r"[ \t,]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)"
    r'(?:=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^",]*)))?[ \t]*(?=,|\Z)',
    re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_DIGITS: Final = re.compile(r"[0-9]+")
_RESTRICTING: Final = frozenset({
    "no-store", "no-cache", "no-transform", "private", "must-revalidate", "proxy-revalidate",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResponseDirectives:
    """The directives of a response (RFC 9111 §5.2.2, RFC 5861, RFC 8246). Times are whole seconds, None when absent.

    Attributes:
        no_cache, private: the unqualified form, for the whole response.
        no_cache_fields, private_fields: lower-case names of the qualified form; empty beside the unqualified one.
        malformed: names of directives whose value could not be read, or that contradict themselves.
    """

    max_age: int | None = None
    s_maxage: int | None = None
    no_store: bool = False
    no_cache: bool = False
    no_cache_fields: tuple[str, ...] = ()
    private: bool = False
    private_fields: tuple[str, ...] = ()
    public: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    must_understand: bool = False
    no_transform: bool = False
    immutable: bool = False
    stale_while_revalidate: int | None = None
    stale_if_error: int | None = None
    malformed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestDirectives:
    """The directives of a request (RFC 9111 §5.2.1, RFC 5861 §4). Times are whole seconds, None when absent.

    Attributes:
        max_stale: `DELTA_MAX` when the client takes any staleness.
        pragma: `no_cache` comes from `Pragma`, in the absence of Cache-Control.
    """

    no_cache: bool = False
    no_store: bool = False
    max_age: int | None = None
    min_fresh: int | None = None
    max_stale: int | None = None
    only_if_cached: bool = False
    no_transform: bool = False
    stale_if_error: int | None = None
    pragma: bool = False


NO_RESPONSE_DIRECTIVES: Final = ResponseDirectives()
NO_REQUEST_DIRECTIVES: Final = RequestDirectives()


def response_directives(headers: Headers) -> ResponseDirectives:
    """The directives of the `Cache-Control` of a response."""
    value = combined(headers, CACHE_CONTROL)
    if value is None:
        return NO_RESPONSE_DIRECTIVES
    return _remembered_response(value) if len(value) <= _REMEMBERED_LENGTH else _parse_response(value)


def request_directives(headers: Headers) -> RequestDirectives:
    """The directives of the `Cache-Control` of a request; without that field, what its `Pragma` says."""
    value = combined(headers, CACHE_CONTROL)
    if value is not None:
        return _remembered_request(value) if len(value) <= _REMEMBERED_LENGTH else _parse_request(value)
    pragma = combined(headers, PRAGMA)
    if pragma is not None and any(member.lower() == "no-cache" for member in split_list(pragma)):
        return _PRAGMA_NO_CACHE
    return NO_REQUEST_DIRECTIVES


_PRAGMA_NO_CACHE: Final = RequestDirectives(no_cache=True, pragma=True)


def targeted_directives(headers: Headers, name: str) -> ResponseDirectives | None:
    """The directives of the targeted field `name` (RFC 9213 §2.1); None when it is absent, empty or malformed."""
    value = combined(headers, name)
    if value is None:
        return None
    return _remembered_targeted(value) if len(value) <= _REMEMBERED_LENGTH else _parse_targeted(value)


# Reading Cache-Control.


def _members(value: str) -> Iterator[tuple[str, str | None]]:
    """Each directive's lower-case name and its argument, quotes taken off; None without one.

    Where the text leaves the grammar (a quoted string without end, say), the next comma is the next chance. From there
    on only directives that restrict are believed: the others may be part of somebody's quoted text.
    """
    place = 0
    trusted = True
    while place < len(value):
        match = _MEMBER.match(value, place)
        if match is None:
            rest = value[place:].lstrip(" \t,")
            if not rest:
                return
            broken = rest.partition(",")[0]
            name = broken.partition("=")[0].strip(" \t").lower()
            if trusted and '"' in broken:
                trusted = False
                yield SYNTAX, None
            if name in _RESTRICTING:
                yield name, None
            elif trusted and _TOKEN.fullmatch(name):
                yield name, ""
            place = len(value) - len(rest) + len(broken) + 1
            continue
        name = match["name"].lower()
        if trusted or name in _RESTRICTING:
            quoted = match["quoted"]
            token = match["token"]
            if quoted is not None:
                yield name, _ESCAPE.sub(r"\1", quoted)
            else:
                yield name, token.rstrip(" \t") if token is not None else None
        place = match.end()


def _gathered(value: str) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for name, argument in _members(value):
        found.setdefault(name, []).append(argument)
    return found


def _delta_seconds(argument: str | None) -> int | None:
    """RFC 9111 §1.2.2; None for what is none."""
    if argument is None or not _DIGITS.fullmatch(argument):
        return None
    return min(int(argument), DELTA_MAX) if len(argument) < 16 else DELTA_MAX


def _parse_response(value: str) -> ResponseDirectives:
    found = _gathered(value)
    malformed = [SYNTAX] if SYNTAX in found else []

    def seconds(name: str) -> int | None:
        if name not in found:
            return None
        values = {_delta_seconds(argument) for argument in found[name]}
        only = values.pop() if len(values) == 1 else None
        if only is None:
            malformed.append(name)
            return 0
        return only

    def flag(name: str) -> bool:
        # None of them takes an argument. With one, what restricts still does, and what permits does not.
        if name not in found:
            return False
        if None in found[name]:
            return True
        malformed.append(name)
        return name in _RESTRICTING

    return _build(
        seconds=seconds,
        flag=flag,
        qualified=lambda name: _qualified(found.get(name), malformed, name),
        malformed=malformed,
    )


def _qualified(arguments: list[str | None] | None, malformed: list[str], name: str) -> tuple[bool, tuple[str, ...]]:
    """Whether the unqualified form is there, and the fields of the qualified one (RFC 9111 §5.2.2.4, §5.2.2.7)."""
    if arguments is None:
        return False, ()
    fields: dict[str, None] = {}
    for argument in arguments:
        if argument is None:
            return True, ()
        names = split_list(argument)
        if not names or not all(map(_TOKEN.fullmatch, names)):
            malformed.append(name)
            return True, ()
        fields.update(dict.fromkeys(map(str.lower, names)))
    return False, tuple(fields)


def _build(
    *,
    seconds: Callable[[str], int | None],
    flag: Callable[[str], bool],
    qualified: Callable[[str], tuple[bool, tuple[str, ...]]],
    malformed: list[str],
) -> ResponseDirectives:
    no_cache, no_cache_fields = qualified("no-cache")
    private, private_fields = qualified("private")
    return ResponseDirectives(
        max_age=seconds("max-age"),
        s_maxage=seconds("s-maxage"),
        no_store=flag("no-store"),
        no_cache=no_cache,
        no_cache_fields=no_cache_fields,
        private=private,
        private_fields=private_fields,
        public=flag("public"),
        must_revalidate=flag("must-revalidate"),
        proxy_revalidate=flag("proxy-revalidate"),
        must_understand=flag("must-understand"),
        no_transform=flag("no-transform"),
        immutable=flag("immutable"),
        stale_while_revalidate=seconds("stale-while-revalidate"),
        stale_if_error=seconds("stale-if-error"),
        malformed=tuple(malformed),
    )


def _parse_request(value: str) -> RequestDirectives:
    found = _gathered(value)

    def each(name: str) -> Iterable[int | None]:
        return map(_delta_seconds, found.get(name, ()))

    return RequestDirectives(
        no_cache="no-cache" in found,
        no_store="no-store" in found,
        max_age=min((0 if value is None else value for value in each("max-age")), default=None),
        min_fresh=max((DELTA_MAX if value is None else value for value in each("min-fresh")), default=None),
        max_stale=_max_stale(found.get("max-stale", ())),
        only_if_cached="only-if-cached" in found,
        no_transform="no-transform" in found,
        stale_if_error=min((0 if value is None else value for value in each("stale-if-error")), default=None),
    )


def _max_stale(arguments: Iterable[str | None]) -> int | None:
    """Without an argument any staleness is welcome (RFC 9111 §5.2.1.2); what cannot be read permits nothing."""
    limits = [DELTA_MAX if argument is None else _delta_seconds(argument) for argument in arguments]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known and len(known) == len(limits) else None


# Reading targeted fields.


def _parse_targeted(value: str) -> ResponseDirectives | None:
    try:
        parsed = cast("Mapping[str, Any]", http_sf.parse(to_wire(value), tltype="dictionary"))
    except ValueError:
        return None
    if not parsed:
        return None
    malformed: list[str] = []

    def seconds(name: str) -> int | None:
        if name not in parsed:
            return None
        argument = parsed[name][0]
        if type(argument) is int and argument >= 0:
            return min(argument, DELTA_MAX)
        # §2.1: not to be consumed. As if it were absent would be to guess a lifetime where one was meant.
        malformed.append(name)
        return 0

    def flag(name: str) -> bool:
        # `?0` denies. Any other value is of a type that the directive has not: it counts only where it restricts.
        if name not in parsed:
            return False
        argument = parsed[name][0]
        if isinstance(argument, bool):
            return argument
        malformed.append(name)
        return name in _RESTRICTING

    def qualified(name: str) -> tuple[bool, tuple[str, ...]]:
        argument = parsed[name][0] if name in parsed else False
        if isinstance(argument, bool):
            return argument, ()
        return _qualified([argument if isinstance(argument, str) else ""], malformed, name)

    return _build(seconds=seconds, flag=flag, qualified=qualified, malformed=malformed)


_remembered_response: Final = lru_cache(maxsize=1024)(_parse_response)
_remembered_request: Final = lru_cache(maxsize=1024)(_parse_request)
_remembered_targeted: Final = lru_cache(maxsize=256)(_parse_targeted)
