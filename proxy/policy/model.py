"""The nouns of the policy: what is stored about a response, and what can be decided about a request.

Theory of operation. `storing.may_store` looks at a request and its response and says whether the pair may be kept.
`reuse.admit` then turns the response into a `Stored`: every header that a later decision needs is read there, once.
`reuse.decide` takes a request, a `Stored` (or nothing) and the time, and returns one `Decision`. All of it is a pure
function of its arguments; times are wall seconds since the epoch.
"""

from dataclasses import dataclass
from typing import TypeAlias

from proxy.http.etag import EntityTag
from proxy.http.message import Headers
from proxy.http.ranges import ContentRange
from proxy.policy.reasons import Reason
from proxy.values import value

__all__ = (
    "DEFAULT_OPTIONS",
    "Decision",
    "EntityTag",
    "Hit",
    "Lifetime",
    "Miss",
    "PolicyOptions",
    "Revalidate",
    "StaleHit",
    "StoreVerdict",
    "Stored",
    "Unsatisfiable",
)


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What a route may choose about the policy; the defaults are those of RFC 9111 for a shared cache.

    Attributes:
        honour_no_cache, honour_no_store, honour_max_age, honour_min_fresh, honour_max_stale, honour_only_if_cached,
            honour_pragma, honour_stale_if_error: whether the request directive of that name is obeyed (RFC 9111
            §5.2.1, §5.4, RFC 5861 §4).
        methods: whose responses may be stored. A method beyond GET and HEAD needs explicit freshness, and a key that
            holds the request's body.
        targets: targeted cache-control fields looked for, the first that is present wins (RFC 9213 §2.1).
        default_ttl: freshness in seconds where the origin says nothing explicit; None: heuristics only. Never applies
            to a response that is private, no-store, or has explicit freshness.
        heuristic_fraction: share of the time since Last-Modified taken as heuristic lifetime (RFC 9111 §4.2.2);
            0 turns it off.
        heuristic_max: upper limit in seconds of a heuristic lifetime.
        max_ttl: upper limit in seconds of any lifetime, or None.
        stale_while_revalidate, stale_if_error: seconds used where the response has no such directive (RFC 5861).
        store_set_cookie: store and replay `Set-Cookie`; otherwise a response that has one is stored only if explicitly
            `public` or given a shared lifetime, and always without it.
        max_variants: how many variants of one resource are kept.
        store_parts: store a 206 that answers a Range request as the part that it is.
    """

    honour_no_cache: bool = True
    honour_no_store: bool = True
    honour_max_age: bool = True
    honour_min_fresh: bool = True
    honour_max_stale: bool = True
    honour_only_if_cached: bool = True
    honour_pragma: bool = True
    honour_stale_if_error: bool = True
    targets: tuple[str, ...] = ("CDN-Cache-Control",)
    default_ttl: float | None = None
    heuristic_fraction: float = 0.1
    heuristic_max: float = 86_400.0
    max_ttl: float | None = None
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    store_set_cookie: bool = False
    max_variants: int = 64
    methods: tuple[str, ...] = ("GET", "HEAD")
    store_parts: bool = True


DEFAULT_OPTIONS = PolicyOptions()


@value
class Stored:
    """A stored response without its body: all that a hit needs, read once at admission. A hit parses nothing.

    Attributes:
        method: of the request that was answered.
        status, reason_phrase, headers: as they are to be sent, `Age` not among them.
        request_time, response_time: wall seconds when the upstream request began and its head arrived.
        initial_age: `corrected_initial_age` in seconds (RFC 9111 §4.2.3).
        fresh_until: wall seconds; fresh while the time is below.
        stale_while_revalidate_until, stale_if_error_until: wall seconds; at least `fresh_until`.
        must_validate: `no-cache`: never reused without validation.
        never_stale: `must-revalidate`, `proxy-revalidate` or `s-maxage`: a stale one is not reused, error or not.
        immutable: RFC 8246.
        etag, last_modified, date: the validators and Date, parsed; times in wall seconds, None when absent or bad.
        vary: lower-case names of the fields that selected this variant, sorted.
        body_length: of the stored body in bytes.
        content_range: (first, last, complete length or None) of a stored partial response.
        softened: a soft purge ended its freshness.
        no_default_ttl: what the path promises is not what came: the route's `default_ttl` is not for it.
    """

    method: str
    status: int
    headers: Headers
    request_time: float
    response_time: float
    initial_age: float
    fresh_until: float
    stale_while_revalidate_until: float
    stale_if_error_until: float
    reason_phrase: str = ""
    must_validate: bool = False
    never_stale: bool = False
    immutable: bool = False
    etag: EntityTag | None = None
    last_modified: float | None = None
    date: float | None = None
    vary: tuple[str, ...] = ()
    body_length: int = 0
    content_range: ContentRange | None = None
    softened: bool = False
    no_default_ttl: bool = False


@value
class StoreVerdict:
    """Whether a response may be stored, and why (not)."""

    store: bool
    reason: Reason

    def __bool__(self) -> bool:
        return self.store


@value
class Lifetime:
    """A freshness lifetime in seconds and where it came from.

    Attributes:
        explicit: it came from the origin's own words, not from heuristics or a default.
    """

    seconds: float
    reason: Reason
    explicit: bool


@value
class Hit:
    """The stored response is fresh and answers the request."""

    reason: Reason
    age: float
    ttl: float


@value
class StaleHit:
    """The stored response is stale and may answer all the same; `refresh` asks for a fetch in the background."""

    reason: Reason
    age: float
    ttl: float
    refresh: bool


@value
class Revalidate:
    """The stored response may answer once the origin has confirmed it."""

    reason: Reason
    age: float
    ttl: float


@value
class Miss:
    """Nothing stored answers this request: the origin is asked."""

    reason: Reason


@value
class Unsatisfiable:
    """The request forbids asking the origin and nothing stored answers it: 504 (RFC 9111 §5.2.1.7)."""

    reason: Reason


Decision: TypeAlias = Hit | StaleHit | Revalidate | Miss | Unsatisfiable
