"""Responses that come again and again: which times `admit_alike` gives them, without making a `Stored` of each."""

from typing import TypeAlias, final

from proxy.policy.admission import Pattern
from proxy.policy.model import Stored
from proxy.policy.reuse import kept_seconds

Times: TypeAlias = tuple[float, float, float, float, float]
"""`discard_at`, `request_time`, `response_time`, `initial_age` and `fresh_until`, see `Entry` and `Stored`."""


@final
class Recurring:
    """Responses of one pattern that have the same validators, whatever they say.

    Args:
        pattern: theirs.
        stored: of one of them.
    """

    __slots__ = ("_kept_seconds", "_lifetime", "_windows")

    def __init__(self, pattern: Pattern, stored: Stored) -> None:
        said = pattern.said
        self._lifetime = said.lifetime
        self._windows = max(0.0, said.while_revalidate, said.if_error)
        self._kept_seconds = kept_seconds(stored)

    def times(self, date: float, request_time: float, response_time: float) -> Times | None:
        """Those of a response with this Date (all in wall seconds); None: it was not fresh any more when it came."""
        # RFC 9111 §4.2.3, where the response says no Age.
        age = max(0.0, response_time - date, response_time - request_time)
        fresh_until = response_time + self._lifetime - age
        if fresh_until <= response_time:
            return None
        return fresh_until + self._windows + self._kept_seconds, request_time, response_time, age, fresh_until
