"""A memory of keys, bounded in time and in number."""

from collections.abc import Hashable

from proxy.policy.reasons import Reason


class Recent:
    """Keys remembered for a while, at most `limit` of them, the oldest given up first."""

    __slots__ = ("_limit", "_until")

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._until: dict[Hashable, tuple[float, Reason]] = {}

    def add(self, key: Hashable, until: float, reason: Reason) -> None:
        """Remember `key` up to the monotonic time `until`, and why."""
        self._until.pop(key, None)
        if len(self._until) >= self._limit:
            del self._until[next(iter(self._until))]
        self._until[key] = until, reason

    def discard(self, key: Hashable) -> None:
        """Forget `key`."""
        self._until.pop(key, None)

    def holds(self, key: Hashable, now: float) -> bool:
        """Whether `key` is remembered at the monotonic time `now`."""
        return key in self._until and self.why(key, now) is not None

    def why(self, key: Hashable, now: float) -> Reason | None:
        """Why `key` is remembered at the monotonic time `now`, if it is."""
        known = self._until.get(key)
        if known is None:
            return None
        until, reason = known
        if until <= now:
            del self._until[key]
            return None
        return reason
