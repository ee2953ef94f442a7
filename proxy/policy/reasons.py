"""Every reason a decision can carry. The one place where a reason is worded.

A member's value is the token seen in log lines, metric labels and the `detail` parameter of `Cache-Status`
(RFC 9211 §2.8); `sentence` is what the explain endpoint says; `clause` is where the rule stands; `fwd` is what RFC 9211
§2.2 calls it when the request goes forward for it.
"""

from typing import Self

from proxy.values import IdentityEnum


class Reason(IdentityEnum):
    """Why the policy decided as it did.

    Attributes:
        token: its name for machines, the value itself: to ask a member for its `value` takes 0.3 µs.
    """

    token: str
    sentence: str
    clause: str
    fwd: str

    def __new__(cls, token: str, sentence: str, clause: str = "", fwd: str = "") -> Self:
        """A member whose value is its token alone."""
        member = object.__new__(cls)
        member._value_ = member.token = token
        member.sentence = sentence
        member.clause = clause
        member.fwd = fwd
        return member

    # Answered from the cache.
    FRESH = "fresh", "The stored response is fresh.", "RFC 9111 §4.2"
    VALIDATED = "validated", "The origin confirmed the stored response.", "RFC 9111 §4.3.3", "stale"
    STALE_WHILE_REVALIDATE = (
        "stale-while-revalidate",
        "The stored response is stale, and is served while it is refreshed in the background.",
        "RFC 5861 §3",
    )
    STALE_IF_ERROR = (
        "stale-if-error",
        "The stored response is stale, and is served because the origin failed.",
        "RFC 5861 §4",
    )
    REQUEST_MAX_STALE = (
        "request-max-stale",
        "The stored response is stale, and the client takes one that stale.",
        "RFC 9111 §5.2.1.2",
    )

    # A stored response was found and may not answer as it is.
    STALE = "stale", "The stored response is stale.", "RFC 9111 §4.2", "stale"
    SOFT_PURGED = "soft-purged", "The stored response was marked stale by a soft purge.", "RFC 9111 §4.4", "stale"
    MUST_REVALIDATE = (
        "must-revalidate",
        "The stored response is stale, and must-revalidate, proxy-revalidate or s-maxage forbids to use it so.",
        "RFC 9111 §5.2.2.2",
        "stale",
    )
    NO_CACHE = (
        "no-cache",
        "The stored response is never used without validation, by its no-cache.",
        "RFC 9111 §5.2.2.4",
        "stale",
    )
    REFRESHED_EARLY = (
        "refreshed-early",
        "The stored response is fresh, and is refreshed ahead of its time.",
        "RFC 9111 §4.2",
        "stale",
    )
    REQUEST_NO_CACHE = (
        "request-no-cache",
        "The client asks for validation with no-cache.",
        "RFC 9111 §5.2.1.4",
        "request",
    )
    REQUEST_PRAGMA = (
        "request-pragma",
        "The client asks for validation with Pragma: no-cache.",
        "RFC 9111 §5.4",
        "request",
    )
    REQUEST_MAX_AGE = (
        "request-max-age",
        "The stored response is older than the client's max-age allows.",
        "RFC 9111 §5.2.1.1",
        "request",
    )
    REQUEST_MIN_FRESH = (
        "request-min-fresh",
        "The stored response will not be fresh for as long as the client's min-fresh demands.",
        "RFC 9111 §5.2.1.3",
        "request",
    )
    PARTIAL = (
        "partial",
        "Only a part is stored, and the request asks for more.",
        "RFC 9111 §3.3",
        "partial",
    )
    OTHER_METHOD = (
        "other-method",
        "The stored response answered another method.",
        "RFC 9111 §4",
        "uri-miss",
    )

    # Nothing was found.
    NOTHING_STORED = "nothing-stored", "Nothing is stored for this URI.", "RFC 9111 §4", "uri-miss"
    URI_MISS = "uri-miss", "Nothing is stored for this URI.", "RFC 9111 §4", "uri-miss"
    VARY_MISS = (
        "vary-miss",
        "Responses are stored for this URI, and none was selected by header fields such as this request's.",
        "RFC 9111 §4.1",
        "vary-miss",
    )
    PURGED = "purged", "What was stored has been purged.", "RFC 9111 §4.4", "miss"
    ONLY_IF_CACHED = (
        "only-if-cached",
        "The client forbids to ask the origin, and nothing stored answers its request.",
        "RFC 9111 §5.2.1.7",
    )
    COLLAPSED = (
        "collapsed",
        "The request waited for another one's answer.",
        "RFC 9111 §4",
        "miss",
    )

    # The cache stood aside.
    CACHE_OFF = "cache-off", "The route's cache is off.", "RFC 9211 §2.2", "bypass"
    METHOD_NOT_CACHED = (
        "method-not-cached",
        "Responses to this method are not cached.",
        "RFC 9111 §3",
        "method",
    )
    PROTOCOL_SWITCH = "protocol-switch", "The client wants to switch protocols.", "RFC 9110 §7.8", "bypass"
    REQUEST_BODY = (
        "request-body",
        "The request has a body, which is no part of the cache key.",
        "RFC 9110 §9.3.1",
        "bypass",
    )
    REQUEST_FIELD = (
        "request-field",
        "The request has a field by which the origin may choose its answer, and which is no part of the cache key.",
        "RFC 9111 §2",
        "bypass",
    )
    REQUEST_CONDITION = (
        "request-condition",
        "The request has a condition that only the origin can judge.",
        "RFC 9111 §4.3.2",
        "request",
    )
    RANGE_REQUEST = (
        "range-request",
        "The request asks for a part of what is not stored.",
        "RFC 9110 §14.2",
        "uri-miss",
    )
    RECENTLY_UNCACHEABLE = (
        "recently-uncacheable",
        "A response for this key could not be stored a short while ago, so that requests for it go side by side.",
        "RFC 9111 §4",
        "miss",
    )

    # A response may be stored.
    STORABLE = "storable", "The response may be stored.", "RFC 9111 §3"
    STORABLE_PART = "storable-part", "The part may be stored as a part.", "RFC 9111 §3.3"

    # A response may not be stored.
    REQUEST_NO_STORE = (
        "request-no-store",
        "The request's no-store forbids to store the response.",
        "RFC 9111 §5.2.1.5",
        "request",
    )
    NO_STORE = "no-store", "The response's no-store forbids to store it.", "RFC 9111 §5.2.2.5"
    PRIVATE = "private", "The response is private: a shared cache may not store it.", "RFC 9111 §5.2.2.7"
    AUTHORIZATION = (
        "authorization",
        "The request has credentials, and the response has none of public, s-maxage and must-revalidate.",
        "RFC 9111 §3.5",
    )
    SET_COOKIE = (
        "set-cookie",
        "The response sets a cookie, and is neither public nor given a lifetime in shared caches.",
        "RFC 9111 §7.3",
    )
    VARY_STAR = "vary-star", "The response varies on more than header fields: Vary is `*`.", "RFC 9111 §4.1"
    STATUS_NOT_FINAL = "status-not-final", "The status code is not a final one.", "RFC 9111 §3"
    STATUS_NOT_UNDERSTOOD = (
        "status-not-understood",
        "The response says must-understand, and its status code is not understood.",
        "RFC 9111 §5.2.2.3",
    )
    STATUS_NOT_CACHEABLE = (
        "status-not-cacheable",
        "The status code is not cacheable by default, and the response says nothing explicit.",
        "RFC 9110 §15.1",
    )
    NOT_MODIFIED = "not-modified", "A 304 answers the client's own condition: there is nothing to store.", "RFC 9111 §3"
    UNREQUESTED_PART = (
        "unrequested-part",
        "The response is a part that was not asked for, or does not say which.",
        "RFC 9111 §3.3",
    )
    NO_FRESHNESS = (
        "no-freshness",
        "The response says nothing of freshness, and has neither validator nor default lifetime.",
        "RFC 9111 §4.2.2",
    )
    NEVER_REUSABLE = (
        "never-reusable",
        "The response is stale at once, and has no validator with which it could be confirmed.",
        "RFC 9111 §4.3.1",
    )
    TOO_LARGE = "too-large", "The response is larger than what is kept."
    INCOMPLETE = "incomplete", "The response ended before it was complete.", "RFC 9111 §3.3"
    TOO_MANY_VARIANTS = "too-many-variants", "As many variants of this resource are stored as the route allows."
    EXTENSION_MISMATCH = (
        "extension-mismatch",
        "The path's extension and the Content-Type disagree, so that the route's lifetime is not applied.",
    )
    STORE_FAILURE = "store-failure", "The store could not keep the response."
    UPSTREAM_ERROR = "upstream-error", "The upstream could not be reached, or failed.", "", "miss"

    # Where a freshness lifetime comes from.
    LIFETIME_S_MAXAGE = "s-maxage", "The lifetime is the response's s-maxage.", "RFC 9111 §5.2.2.10"
    LIFETIME_MAX_AGE = "max-age", "The lifetime is the response's max-age.", "RFC 9111 §5.2.2.1"
    LIFETIME_EXPIRES = "expires", "The lifetime is Expires less Date.", "RFC 9111 §5.3"
    LIFETIME_MALFORMED = (
        "malformed-lifetime",
        "The lifetime cannot be read, or is given twice with different values: the response is stale.",
        "RFC 9111 §4.2.1",
    )
    LIFETIME_HEURISTIC = "heuristic", "The lifetime is a share of the time since Last-Modified.", "RFC 9111 §4.2.2"
    LIFETIME_DEFAULT = "default-ttl", "The origin says nothing, and the route gives a lifetime.", "RFC 9111 §4.2.2"
    LIFETIME_NONE = "no-lifetime", "Nothing gives a lifetime: the response is stale at once.", "RFC 9111 §4.2.2"
