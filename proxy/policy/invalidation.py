"""What makes stored responses void: unsafe methods (RFC 9111 §4.4), cache groups (RFC 9875), and soft purges."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast
from urllib.parse import urljoin, urlsplit

import http_sf

from proxy.http.headers import combined
from proxy.http.message import Headers, Request, Response, to_wire
from proxy.http.names import CACHE_GROUP_INVALIDATION, CONTENT_LOCATION, LOCATION
from proxy.policy.model import Stored

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"})
"""Methods known to be safe (RFC 9110 §9.2.1 and the registry); the safety of any other is unknown."""

_DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


def invalidated_by(request: Request, response: Response) -> tuple[str, ...]:
    """The URIs whose stored responses `response` makes void (§4.4).

    They are the target and, where they share its origin, what Location and Content-Location name; in the form of
    `Request.url`. Empty for a safe method, or an error.
    """
    if not _changes_state(request, response):
        return ()
    headers = response.headers
    if LOCATION not in headers and CONTENT_LOCATION not in headers:
        return (request.url,)
    urls = {request.url: None}
    for name in (LOCATION, CONTENT_LOCATION):
        for reference in headers.getall(name, ()):
            url = _same_origin(request, reference.strip(" \t"))
            if url is not None:
                urls[url] = None
    return tuple(urls)


def _changes_state(request: Request, response: Response) -> bool:
    return request.method not in SAFE_METHODS and 200 <= response.status <= 399


def _same_origin(request: Request, reference: str) -> str | None:
    """`reference` resolved against the target URI; None when it is another origin's, or no URI."""
    try:
        parts = urlsplit(urljoin(request.url, reference))
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if host is None or scheme != request.scheme or "@" in parts.netloc:
        return None
    name = f"[{host}]" if ":" in host else host
    authority = name if port in {None, _DEFAULT_PORTS.get(scheme)} else f"{name}:{port}"
    if authority != request.host:
        return None
    target = parts.path or "/"
    return f"{scheme}://{authority}{target}" + (f"?{parts.query}" if parts.query else "")


def groups(request: Request, response: Response) -> tuple[str, ...]:
    """The tags that stand for the cache groups of a response (RFC 9875 §2)."""
    return _group_tags(request, response.headers, "Cache-Groups")


def invalidated_groups(request: Request, response: Response) -> tuple[str, ...]:
    """The tags of the groups that a response makes void (RFC 9875 §3)."""
    if not _changes_state(request, response):
        return ()
    return _group_tags(request, response.headers, CACHE_GROUP_INVALIDATION)


def _group_tags(request: Request, headers: Headers, name: str) -> tuple[str, ...]:
    """Groups as tags. The origin is part of each: a group is one origin's own (RFC 9875 §2.1)."""
    value = combined(headers, name)
    if value is None:
        return ()
    try:
        members = cast("list[tuple[Any, Any]]", http_sf.parse(to_wire(value), tltype="list"))
    except ValueError:
        return ()
    names = [member for member, _ in members]
    if not all(type(member) is str for member in names):
        return ()
    return tuple(dict.fromkeys(f"{request.scheme}://{request.host} {member}" for member in names))


def soften(stored: Stored, at: float) -> Stored:
    """`stored` after a soft purge: stale from `at` on, and for use while stale no longer than it would have been."""
    if stored.fresh_until <= at:
        return stored
    early = stored.fresh_until - at
    return replace(
        stored,
        fresh_until=at,
        stale_while_revalidate_until=stored.stale_while_revalidate_until - early,
        stale_if_error_until=stored.stale_if_error_until - early,
        softened=True,
    )
