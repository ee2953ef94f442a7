"""GCRA, the generic cell rate algorithm, and a bounded table of what each key has used up.

Theory of operation. A key's *due* time is the moment at which all it has been granted will have been paid for, one
request each `interval`. A request is granted if, with it, the due time lies at most `burst` intervals ahead. So one
number per key says all; a due time in the past says the same as no number at all, and such keys are dropped.

Times are whole nanoseconds: sums are exact, and no key is ever granted more than `burst + elapsed / interval`.

Memory. The table never holds more than `max_keys`. Keys are filed by due time in slots a sixteenth of the horizon wide;
a grant only moves the due time, and the file is corrected when the slot's turn comes, so that a grant costs one
dictionary write. Each grant drops up to two keys of the past, which is faster than they can be added.

When the table is full of keys that still owe, a new key takes the place of the one that owes least. Whoever invents
keys to push a limited one out therefore has to spend nearly a whole burst on each of `max_keys` keys at once: keys used
once push out each other.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

NANOSECONDS: Final = 1_000_000_000
_SLOTS: Final = 16
_SWEPT_PER_GRANT: Final = 2
_SAMPLED: Final = 8
_NO_SLOT: Final = 1 << 200

Key: TypeAlias = str | bytes


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate.

    Attributes:
        interval_ns: one request is earned back in this time.
        burst: how many may come at once.

    Raises:
        ValueError: one of them is below 1.
    """

    interval_ns: int
    burst: int

    def __post_init__(self) -> None:
        if self.interval_ns < 1 or self.burst < 1:
            raise ValueError(f"interval and burst are at least 1, not {self.interval_ns} and {self.burst}")

    @classmethod
    def per_period(cls, rate: int, period_seconds: float, burst: int | None = None) -> "Limit":
        """`rate` requests in `period_seconds`, `burst` of them (default: all) at once.

        The interval is rounded up to a nanosecond: never more than asked for.

        Raises:
            ValueError: the rate is above one request in a nanosecond, or an argument is not positive.
        """
        return cls(-(-round(period_seconds * NANOSECONDS) // rate) if rate > 0 else 0, rate if burst is None else burst)

    @property
    def horizon_ns(self) -> int:
        """The time in which a whole burst is earned back; no due time lies further ahead."""
        return self.interval_ns * self.burst


class Meter:
    """The due times of the keys of one limit. See the module.

    Args:
        max_keys: how many keys are held at most.
    """

    __slots__ = (
        "_due", "_first", "_horizon", "_interval", "_slots", "_sweep_from_ns", "_width", "forgotten", "limit",
        "max_keys",
    )  # fmt: skip

    def __init__(self, limit: Limit, max_keys: int) -> None:
        assert max_keys > 0
        self.limit = limit
        self.max_keys = max_keys
        self.forgotten = 0
        """Keys pushed out while they owed something."""
        self._interval = limit.interval_ns
        self._horizon = limit.horizon_ns
        self._due: dict[Key, int] = {}
        self._width = max(1, limit.horizon_ns // _SLOTS)
        self._slots: dict[int, list[Key]] = {}
        self._first = _NO_SLOT  # the lowest slot with keys
        self._sweep_from_ns = _NO_SLOT  # the end of that slot

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: Key) -> bool:
        return key in self._due

    def ask(self, key: Key, now_ns: int) -> int:
        """What `key` would owe with one more request, in nanoseconds; 0: that is not granted.

        To be put on the key's account by `charge`, unless another rule says no. What is owed is the time in which the
        whole burst is there again.
        """
        due = self._due.get(key, 0)
        owed = due - now_ns + self._interval if due > now_ns else self._interval
        return owed if owed <= self._horizon else 0

    def charge(self, key: Key, now_ns: int, owed_ns: int) -> None:
        """Put one request on `key`'s account.

        Args:
            owed_ns: what `ask` has said for the same moment; not 0.
        """
        if key not in self._due:
            if len(self._due) >= self.max_keys:
                self._make_room(now_ns)
            self._file(key, now_ns + owed_ns)
        self._due[key] = now_ns + owed_ns
        if now_ns >= self._sweep_from_ns:
            self._sweep(now_ns)

    def take(self, key: Key, now_ns: int) -> int:
        """`ask`, and `charge` if that is granted: what `key` owes then, in nanoseconds; 0: it is not granted.

        For a key that has an account already, which is the usual thing, in half of the time of both.
        """
        due = self._due.get(key)
        if due is None or now_ns >= self._sweep_from_ns:
            owed = self.ask(key, now_ns)
            if owed:
                self.charge(key, now_ns, owed)
            return owed
        owed = self._interval
        if due > now_ns:
            owed += due - now_ns
            if owed > self._horizon:
                return 0
        self._due[key] = now_ns + owed
        return owed

    def remaining(self, owed_ns: int) -> int:
        """How many more could come at once from a key that owes so much."""
        return (self._horizon - owed_ns) // self._interval

    def wait_ns(self, key: Key, now_ns: int) -> int:
        """The time until `key` is granted a request; 0 if it is now."""
        return max(0, self._due.get(key, 0) - now_ns + self._interval - self._horizon)

    def _sweep(self, now_ns: int) -> None:
        """Drop a few keys that owe nothing, oldest slots first."""
        current = now_ns // self._width
        for _ in range(_SWEPT_PER_GRANT):
            if self._first >= current:
                return
            _, key = self._pop()
            due = self._due[key]
            if due > now_ns:
                self._file(key, due)
            else:
                del self._due[key]

    def _make_room(self, now_ns: int) -> None:
        """Drop the key that owes least, to within a slot; of a sample, where the file is out of date."""
        candidates: list[Key] = []
        for _ in range(min(_SAMPLED, len(self._due))):
            slot, key = self._pop()
            candidates.append(key)
            if self._due[key] // self._width <= slot:
                break
        victim = min(candidates, key=self._due.__getitem__)
        for key in candidates:
            if key != victim:
                self._file(key, self._due[key])
        if self._due.pop(victim) > now_ns:
            self.forgotten += 1

    def _file(self, key: Key, due: int) -> None:
        slot = due // self._width
        keys = self._slots.get(slot)
        if keys is None:
            self._slots[slot] = [key]
            self._begin_at(min(self._first, slot))
        else:
            keys.append(key)

    def _pop(self) -> tuple[int, Key]:
        """Take a key out of the first slot; the caller files it again or drops it."""
        slot = self._first
        keys = self._slots[slot]
        key = keys.pop()
        if not keys:
            del self._slots[slot]
            self._begin_at(min(self._slots, default=_NO_SLOT))
        return slot, key

    def _begin_at(self, slot: int) -> None:
        self._first = slot
        self._sweep_from_ns = (slot + 1) * self._width
