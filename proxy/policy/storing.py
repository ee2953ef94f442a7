"""Which responses may be stored (RFC 9111 §3), and which of their fields (§3.1)."""

from dataclasses import replace
from typing import Final

from proxy.http.cache_control import SYNTAX, ResponseDirectives, request_directives
from proxy.http.dates import parse_date
from proxy.http.etag import parse_etag
from proxy.http.headers import HOP_BY_HOP, PROXY_FIELDS, connection_options
from proxy.http.message import Headers, Request, Response, shared_headers
from proxy.http.ranges import parse_content_range, parse_range
from proxy.policy.deception import agrees_with_path
from proxy.policy.directives import Governing, governing
from proxy.policy.freshness import HEURISTICALLY_CACHEABLE, PROVOKED, lifetime
from proxy.policy.model import DEFAULT_OPTIONS, PolicyOptions, StoreVerdict
from proxy.policy.reasons import Reason
from proxy.policy.vary import vary_names

UNDERSTOOD: Final = frozenset({
    200, 203, 204, 206, 300, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412,
    413, 414, 415, 416, 417, 421, 422, 426, 500, 501, 502, 503, 504, 505,
})  # fmt: skip
"""Status codes whose requirements on caches are met here; for must-understand (RFC 9111 §5.2.2.3). All of RFC 9110 but
201, 202 and 205, which report what a request did."""

_BODY_METHODS: Final = frozenset({"GET", "HEAD"})
_NEVER_STORED: Final = HOP_BY_HOP | PROXY_FIELDS | {"age"}
_NEVER_STORED_NOR_COOKIES: Final = _NEVER_STORED | {"set-cookie", "set-cookie2"}
_DESCRIBING: Final = frozenset({"cache-control", "content-encoding", "content-range", "content-type", "vary"})
"""Without these a body, or the response itself, means something else: a qualified directive that names one is taken as
unqualified."""


def may_store(request: Request, response: Response, options: PolicyOptions = DEFAULT_OPTIONS) -> StoreVerdict:
    """Whether a shared cache may store `response` to `request`, and would have a use for it.

    The body is not looked at: whether it is complete, and not too large, is seen when it has arrived.
    """
    governed = governing(response.headers, options.targets)
    deceptive = options.default_ttl is not None and not agrees_with_path(request, response)
    if deceptive:
        options = replace(options, default_ttl=None)
    refusal = (
        _request_refuses(request, options)
        or _status_refuses(request, response, governed.directives, options)
        or _directives_refuse(request, response, governed, options)
        or _useless(request, response, governed, options)
    )
    if refusal is Reason.NO_FRESHNESS and deceptive:
        refusal = Reason.EXTENSION_MISMATCH
    if refusal is not None:
        return StoreVerdict(store=False, reason=refusal)
    return StoreVerdict(store=True, reason=Reason.STORABLE_PART if response.status == 206 else Reason.STORABLE)


def may_update(request: Request, updated: Headers, options: PolicyOptions = DEFAULT_OPTIONS) -> bool:
    """Whether what a 304 to `request` says may become part of what is stored for everybody (§3.5, §5.2.1.5).

    Args:
        updated: the fields of the stored response with those of the 304.
    """
    headers = request.headers
    if options.honour_no_store and "Cache-Control" in headers and request_directives(headers).no_store:
        return False
    return "Authorization" not in headers or allows_credentials(governing(updated, options.targets).directives)


def forbids_storing(headers: Headers, options: PolicyOptions = DEFAULT_OPTIONS) -> bool:
    """Whether a response with these fields says that no shared cache may keep it (§5.2.2.5, §5.2.2.7)."""
    return forbid_storing(governing(headers, options.targets).directives)


def forbid_storing(directives: ResponseDirectives) -> bool:
    """The same of directives."""
    return (directives.no_store and not directives.must_understand) or directives.private


def _request_refuses(request: Request, options: PolicyOptions) -> Reason | None:
    if request.method not in options.methods:
        return Reason.METHOD_NOT_CACHED
    if request.body and request.method in _BODY_METHODS:
        return Reason.REQUEST_BODY
    if options.honour_no_store and "Cache-Control" in request.headers and request_directives(request.headers).no_store:
        return Reason.REQUEST_NO_STORE
    return None


def _status_refuses(
    request: Request, response: Response, directives: ResponseDirectives, options: PolicyOptions
) -> Reason | None:
    status = response.status
    if not 200 <= status <= 599:
        return Reason.STATUS_NOT_FINAL
    if status == 304:
        return Reason.NOT_MODIFIED
    if directives.must_understand and status not in UNDERSTOOD:
        return Reason.STATUS_NOT_UNDERSTOOD
    if status == 206 and not (options.store_parts and _is_part_asked_for(request, response.headers)):
        return Reason.UNREQUESTED_PART
    return None


def _is_part_asked_for(request: Request, headers: Headers) -> bool:
    """Whether a 206 is a single part that is known by a strong validator (§3.3, §3.4), in reply to a Range."""
    etag = parse_etag(headers.get("ETag"))
    return (
        request.method == "GET"
        and parse_range(request.headers.get("Range")) is not None
        and len(headers.getall("Content-Range", ())) == 1
        and parse_content_range(headers.get("Content-Range")) is not None
        and etag is not None
        and not etag.weak
    )


def _directives_refuse(
    request: Request, response: Response, governed: Governing, options: PolicyOptions
) -> Reason | None:
    directives, headers = governed.directives, response.headers
    # §5.2.2.3: with must-understand and a status that is understood, no-store is for other caches.
    if directives.no_store and not directives.must_understand:
        return Reason.NO_STORE
    if directives.private or not _DESCRIBING.isdisjoint(directives.private_fields):
        return Reason.PRIVATE
    if "Authorization" in request.headers and not allows_credentials(directives):
        return Reason.AUTHORIZATION
    if vary_names(headers) is None:
        return Reason.VARY_STAR
    if "Set-Cookie" in headers and not options.store_set_cookie and not _shares_despite_cookie(governed):
        return Reason.SET_COOKIE
    return None


def allows_credentials(directives: ResponseDirectives) -> bool:
    """Whether a response to a request with Authorization may be shared (§3.5)."""
    if SYNTAX in directives.malformed:
        return False
    revalidated = directives.must_revalidate and "must-revalidate" not in directives.malformed
    return directives.public or revalidated or _has_shared_lifetime(directives)


def _has_shared_lifetime(directives: ResponseDirectives) -> bool:
    return directives.s_maxage is not None and "s-maxage" not in directives.malformed


def _shares_despite_cookie(governed: Governing) -> bool:
    """Whether the origin shows that it means shared caches although it sets a cookie (§7.3)."""
    directives = governed.directives
    if SYNTAX in directives.malformed:
        return False
    if "set-cookie" in (*directives.private_fields, *directives.no_cache_fields):
        return True
    targeted_lifetime = (
        governed.field != "" and directives.max_age is not None and "max-age" not in directives.malformed
    )
    return directives.public or targeted_lifetime or _has_shared_lifetime(directives)


def _useless(request: Request, response: Response, governed: Governing, options: PolicyOptions) -> Reason | None:
    """Why nobody could ever be answered from the stored response, or §3 has no permission for it."""
    directives, headers, status = governed.directives, response.headers, response.status
    explicit = (
        directives.public
        or directives.max_age is not None
        or directives.s_maxage is not None
        or (not governed.field and "Expires" in headers)
    )
    if not explicit and (
        status not in HEURISTICALLY_CACHEABLE
        or request.method not in _BODY_METHODS
        or (status in PROVOKED and "Last-Modified" not in headers)
    ):
        return Reason.STATUS_NOT_CACHEABLE
    # What is no entity-tag, or no date, cannot be sent back as a condition.
    if parse_etag(headers.get("ETag")) is not None or parse_date(headers.get("Last-Modified"), 0.0) is not None:
        return None
    # Only whether it is zero counts here, and that does not depend on when the response came: any time will do.
    seconds = lifetime(response, received=0.0, options=options, governed=governed).seconds
    if directives.no_cache or not _DESCRIBING.isdisjoint(directives.no_cache_fields):
        return Reason.NEVER_REUSABLE
    if seconds > 0:
        return None
    window = max(
        options.stale_while_revalidate
        if directives.stale_while_revalidate is None
        else directives.stale_while_revalidate,
        options.stale_if_error if directives.stale_if_error is None else directives.stale_if_error,
    )
    if window > 0:
        return None
    return Reason.NEVER_REUSABLE if explicit else Reason.NO_FRESHNESS


def storable_headers(request: Request, response: Response, options: PolicyOptions = DEFAULT_OPTIONS) -> Headers:
    """The fields of `response` that are kept (§3.1).

    Left out: hop-by-hop fields and those that `Connection` names, `Proxy-*` authentication, `Age` (it is computed), the
    fields named by `private="…"` and `no-cache="…"`, and `Set-Cookie` unless the route says otherwise.
    """
    del request
    directives = governing(response.headers, options.targets).directives
    return without_unstorable(response.headers, directives, options)


def without_unstorable(headers: Headers, directives: ResponseDirectives, options: PolicyOptions) -> Headers:
    """`headers` without what a cache may not keep of a response with these `directives`."""
    left_out = _NEVER_STORED if options.store_set_cookie else _NEVER_STORED_NOR_COOKIES
    named = connection_options(headers) | {*directives.private_fields, *directives.no_cache_fields}
    if named:
        left_out |= named
    if left_out.isdisjoint(map(str.lower, headers)):  # as nearly always
        return shared_headers(headers.items())
    return shared_headers((name, value) for name, value in headers.items() if name.lower() not in left_out)


def demands_validation(directives: ResponseDirectives) -> bool:
    """Whether a stored response may never answer without validation (§5.2.2.4)."""
    return directives.no_cache or not _DESCRIBING.isdisjoint(directives.no_cache_fields)


def is_complete(request: Request, response: Response, body_length: int) -> bool:
    """Whether a body of `body_length` bytes is all that the response's Content-Length promised (§3.3)."""
    promised = response.headers.getall("Content-Length", ())
    if request.method == "HEAD" or not promised:
        return True
    return all(part.strip() == str(body_length) for line in promised for part in line.split(","))
