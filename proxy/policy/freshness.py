"""Freshness lifetime and age (RFC 9111 §4.2)."""

import re
from typing import Final

from proxy.http.cache_control import DELTA_MAX
from proxy.http.dates import parse_date
from proxy.http.headers import combined
from proxy.http.message import Headers, Response
from proxy.policy.directives import Governing, governing
from proxy.policy.model import DEFAULT_OPTIONS, Lifetime, PolicyOptions, Stored
from proxy.policy.reasons import Reason

HEURISTICALLY_CACHEABLE: Final = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})
"""RFC 9110 §15.1."""

PROVOKED: Final = frozenset({405, 414, 501})
"""Heuristically cacheable, but an odd request can get such an answer for any URI: a default lifetime would let a client
replace a resource with an error for all. A Last-Modified shows that the origin means it."""

_AGE: Final = re.compile(r"[ \t]*([0-9]+)[ \t]*(?:,|\Z)")


def lifetime(
    response: Response,
    *,
    received: float,
    options: PolicyOptions = DEFAULT_OPTIONS,
    governed: Governing | None = None,
) -> Lifetime:
    """The freshness lifetime of `response` in a shared cache (§4.2.1), and where it comes from.

    Args:
        received: wall seconds when its head arrived; stands in for a missing Date.
        governed: its directives, when they are known already.
    """
    governed = governed or governing(response.headers, options.targets)
    found = _explicit(response.headers, governed, received) or _implicit(response, governed, received, options)
    if options.max_ttl is not None and found.seconds > options.max_ttl:
        return Lifetime(options.max_ttl, found.reason, found.explicit)
    return found


def _explicit(headers: Headers, governed: Governing, received: float) -> Lifetime | None:
    directives = governed.directives
    for name, seconds, reason in (
        ("s-maxage", directives.s_maxage, Reason.LIFETIME_S_MAXAGE),
        ("max-age", directives.max_age, Reason.LIFETIME_MAX_AGE),
    ):
        if seconds is not None:
            malformed = name in directives.malformed
            return Lifetime(float(seconds), Reason.LIFETIME_MALFORMED if malformed else reason, explicit=True)
    lines = headers.getall("Expires", ()) if not governed.field else ()
    if not lines:
        return None
    expires = {parse_date(line, received) for line in lines}
    moment = expires.pop() if len(expires) == 1 else None
    if moment is None:
        return Lifetime(0.0, Reason.LIFETIME_MALFORMED, explicit=True)
    date = parse_date(headers.get("Date"), received)
    seconds_left = moment - (received if date is None else date)
    return Lifetime(min(max(0.0, seconds_left), float(DELTA_MAX)), Reason.LIFETIME_EXPIRES, explicit=True)


def _implicit(response: Response, governed: Governing, received: float, options: PolicyOptions) -> Lifetime:
    """The route's lifetime, or a heuristic one (§4.2.2)."""
    default = response.status in HEURISTICALLY_CACHEABLE
    if options.default_ttl is not None and default and response.status not in PROVOKED:
        return Lifetime(options.default_ttl, Reason.LIFETIME_DEFAULT, explicit=False)
    if default or governed.directives.public:
        modified = parse_date(response.headers.get("Last-Modified"), received)
        if modified is not None:
            date = parse_date(response.headers.get("Date"), received)
            since = (received if date is None else date) - modified
            seconds = min(since * options.heuristic_fraction, options.heuristic_max)
            if seconds > 0:
                return Lifetime(seconds, Reason.LIFETIME_HEURISTIC, explicit=False)
    return Lifetime(0.0, Reason.LIFETIME_NONE, explicit=False)


def age_value(headers: Headers) -> int:
    """The `Age` field in seconds: its first member; 0 when absent or invalid (§5.1)."""
    value = combined(headers, "Age")
    match = _AGE.match(value) if value is not None else None
    if match is None:
        return 0
    digits = match[1]
    return min(int(digits), DELTA_MAX) if len(digits) < 16 else DELTA_MAX


def initial_age(headers: Headers, *, request_time: float, response_time: float) -> float:
    """`corrected_initial_age` in seconds (§4.2.3)."""
    date = parse_date(headers.get("Date"), response_time)
    apparent_age = max(0.0, response_time - date) if date is not None else 0.0
    response_delay = max(0.0, response_time - request_time)
    return max(apparent_age, age_value(headers) + response_delay)


def current_age(stored: Stored, now: float) -> float:
    """Seconds since the response was generated or last validated at the origin (§4.2.3). A wall clock that was set back
    makes nothing younger than it was on arrival.
    """
    return age_at(stored.initial_age, stored.response_time, now)


def age_at(initial_age: float, response_time: float, now: float) -> float:
    """The same of a stored response of which these two times are known."""
    # Written out: by `max` it takes three times as long, and every hit has an age.
    return initial_age + (now - response_time) if now > response_time else initial_age
