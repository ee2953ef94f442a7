"""What a rule does to the caching fields of a response, and what it may not do: pure functions.

Rule: whether a change would make something shared that its origin did not mean to share is decided here and nowhere
else.
"""

import re
from collections.abc import Iterable
from typing import Final

from multidict import CIMultiDict

from proxy.http.cache_control import ResponseDirectives, response_directives, targeted_directives
from proxy.http.headers import split_list
from proxy.http.message import Headers, make_headers

TARGETED_SUFFIX: Final = "-cache-control"
_FRESHNESS: Final = frozenset({"cache-control", "expires", "pragma", "surrogate-control"})
_LISTS: Final = frozenset({"vary", "cache-tag", "cache-groups"})
_WORDS: Final = frozenset({"surrogate-key"})
_DIRECTIVE: Final = re.compile(r"""[\w!#$%&'*+.^`|~-]+(?:=(?:[\w!#$%&'*+.^`|~-]+|"[^"]*"))?""", re.ASCII)


def is_targeted(name: str) -> bool:
    """Whether `name` is that of a targeted field such as CDN-Cache-Control (RFC 9213)."""
    return name.lower().endswith(TARGETED_SUFFIX)


def is_freshness(name: str) -> bool:
    """Whether the field `name` tells caches what they may keep, and for how long."""
    return name.lower() in _FRESHNESS or is_targeted(name)


def is_caching_field(name: str) -> bool:
    """Whether rules may be about the field `name`."""
    return is_freshness(name) or name.lower() in _LISTS | _WORDS


def says_nothing(headers: Headers | CIMultiDict[str]) -> bool:
    """Whether a response leaves it to caches what they may keep, and for how long."""
    return not any(is_freshness(name) for name in headers)


def add_members(headers: CIMultiDict[str], name: str, value: str) -> None:
    """Add the members of `value` that the field `name` has not: directives by name, all else by the whole member."""
    words = name.lower() in _WORDS
    present = " ".join(headers.getall(name, ())).split() if words else _members(headers.getall(name, ()))
    known = {_identity(name, member) for member in present}
    for member in value.split() if words else split_list(value):
        if (identity := _identity(name, member)) not in known:
            known.add(identity)
            present.append(member)
    headers[name] = (" " if words else ", ").join(present)


def _members(lines: Iterable[str]) -> list[str]:
    return [member for line in lines for member in split_list(line)]


def _identity(name: str, member: str) -> str:
    if is_freshness(name):
        return member.partition("=")[0].strip().lower()
    return member.lower() if name.lower() == "vary" else member


def weakens(origin: Headers, changed: CIMultiDict[str], *, cookie: bool = False, credentials: bool = False) -> bool:
    """Whether `changed` lets a shared cache keep what `origin` did not.

    That is so where `private` or `no-store` is lost, in Cache-Control or in what a targeted field says in its place;
    and where a personal response is given a directive that makes it shared all the same (RFC 9111 §3.5).

    Args:
        cookie: the response sets one.
        credentials: it answers a request with Authorization.
    """
    after = make_headers(changed.items())
    names = {name.lower() for fields in (origin, after) for name in fields if is_targeted(name)}
    return any(_less(origin, after, name, cookie=cookie, credentials=credentials) for name in ("", *names))


def _less(origin: Headers, changed: Headers, target: str, *, cookie: bool, credentials: bool) -> bool:
    before, after = _directives(origin, target), _directives(changed, target)
    if after.no_store:
        return False
    if before.no_store or (before.private and not after.private):
        return True
    if after.private:
        return False
    if not set(before.private_fields) <= set(after.private_fields):
        return True
    granted = _grants(after, target) - _grants(before, target)
    return (credentials and bool(granted)) or (cookie and bool(granted - {"must-revalidate"}))


def _directives(headers: Headers, target: str) -> ResponseDirectives:
    """What a cache that looks at `target` first obeys; empty: one that looks at no targeted field."""
    targeted = targeted_directives(headers, target) if target else None
    return response_directives(headers) if targeted is None else targeted


def _grants(directives: ResponseDirectives, target: str) -> set[str]:
    """What makes a personal response shared."""
    granted = {
        "public": directives.public,
        "s-maxage": directives.s_maxage is not None,
        "must-revalidate": directives.must_revalidate,
        "max-age": bool(target) and directives.max_age is not None,
    }
    return {name for name, given in granted.items() if given}


def mistake_in(name: str, value: str) -> str | None:
    """What is wrong with `value` as a value of the caching field `name`, if anything."""
    if is_targeted(name):
        directives = targeted_directives(make_headers([(name, value)]), name)
        if directives is None:
            return "is no dictionary of directives (RFC 9213 §2.1)"
    elif name.lower() == "cache-control":
        for member in split_list(value):
            if _DIRECTIVE.fullmatch(member) is None:
                return f"has {member!r}, which is no directive"
        directives = response_directives(make_headers([(name, value)]))
    else:
        return None if value.strip() else "is empty"
    if directives.malformed:
        return f"has a bad value for {', '.join(directives.malformed)}"
    return None if value.strip() else "is empty"
