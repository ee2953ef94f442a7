"""Responses that come again and again with one and the same head: what `admit_alike` makes of them, once for all.

Within a second most responses of an origin have heads that are equal to the letter, Date included. Then everything is
the same about what is stored of them, but for the times that depend on when the request was sent and its response came.
"""

from collections.abc import Iterable
from typing import Final, TypeAlias, final

from proxy.policy.admission import Pattern
from proxy.policy.model import Stored
from proxy.policy.reuse import kept_seconds

Times: TypeAlias = tuple[float, float, float, float, float]
"""`discard_at`, `request_time`, `response_time`, `initial_age` and `fresh_until`, see `Entry` and `Stored`."""

LASTS_SECONDS: Final = 60.0
"""How long what was read from a head is taken for what would be read now: a date with a two-digit year means another
one some day."""


@final
class Recurring:
    """Responses with the head that `stored` was made of.

    Args:
        pattern: that it was made by.
        date: its Date, which is one.

    Attributes:
        stored: as given.
    """

    __slots__ = ("_date", "_kept_seconds", "_lifetime", "_windows", "stored")

    def __init__(self, pattern: Pattern, stored: Stored, date: float) -> None:
        said = pattern.said
        self.stored = stored
        self._date = date
        self._lifetime = said.lifetime
        self._windows = max(0.0, said.while_revalidate, said.if_error)
        self._kept_seconds = kept_seconds(stored)

    def lasts(self, now: float) -> bool:
        """Whether `times` holds for a response that comes at `now`, in wall seconds."""
        return 0.0 <= now - self.stored.response_time < LASTS_SECONDS

    def times(self, request_time: float, response_time: float) -> Times | None:
        """Those of a response that came at `response_time`; None: it was not fresh any more."""
        # RFC 9111 §4.2.3, where the response says no Age.
        age = max(0.0, response_time - self._date, response_time - request_time)
        fresh_until = response_time + self._lifetime - age
        if fresh_until <= response_time:
            return None
        return fresh_until + self._windows + self._kept_seconds, request_time, response_time, age, fresh_until


def recurring(pattern: Pattern, stored: Stored, own: Iterable[tuple[str, str]]) -> Recurring | None:
    """What is to be known of responses with the same head.

    Args:
        stored: as `admit_alike` made it of `pattern` and `own`, fresh when it came.

    Returns:
        None where the Date is none, and depends on when the response came.
    """
    date = next((text for name, text in own if name.lower() == "date"), None)
    if stored.date is None or date != stored.headers.get("Date"):
        return None
    return Recurring(pattern, stored, stored.date)
