"""What a load test measured, and what is made of it.

Free of locust, which patches the interpreter that it is imported into.
"""

import collections
import itertools
import math
from array import array
from dataclasses import dataclass, field
from typing import Any

import http_sf


def outcome_of(cache_status: str) -> str:
    """What a cache did, by its Cache-Status field (RFC 9211): `hit`, `fwd=` and the reason, or `none` without it."""
    if not cache_status:
        return "none"
    try:
        members: Any = http_sf.parse(cache_status.encode(), tltype="list")
        _, parameters = members[-1]  # the last member is the cache nearest to the client
    except (ValueError, IndexError):
        return "malformed"
    if parameters.get("hit") is True:
        return "hit"
    return f"fwd={parameters['fwd']}" if "fwd" in parameters else "other"


def percentile(ordered: "array[float]", share: float) -> float:
    """The value that a `share` of them does not exceed (nearest rank); 0 of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


@dataclass(slots=True)
class Tally:
    """What was measured. Milliseconds, by outcome of the cache; nothing is rounded into buckets."""

    milliseconds: dict[str, "array[float]"] = field(default_factory=lambda: collections.defaultdict(lambda: array("d")))
    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    codings: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, milliseconds: float, status: int, cache_status: str = "", coding: str = "") -> None:
        """Count one request.

        Args:
            milliseconds: from its beginning to the end of the answer.
            status: of the answer; 0 if there was none.
            cache_status: the answer's Cache-Status field, empty if it has none.
            coding: its Content-Encoding, empty if it has none.
        """
        self.milliseconds[outcome_of(cache_status)].append(milliseconds)
        self.statuses[str(status)] += 1
        if status:
            self.codings[coding or "identity"] += 1

    def summary(self) -> dict[str, object]:
        """Counts, the share of hits in all requests, and quantiles of all, of hits and of the rest."""
        hits = self.milliseconds.get("hit", array("d"))
        others = array("d", itertools.chain(*(v for k, v in self.milliseconds.items() if k != "hit")))
        everything = array("d", itertools.chain(hits, others))
        return {
            "requests": len(everything),
            "hit_ratio": len(hits) / len(everything) if everything else 0.0,
            "outcomes": {name: len(values) for name, values in sorted(self.milliseconds.items())},
            "statuses": dict(sorted(self.statuses.items())),
            "content_codings": dict(sorted(self.codings.items())),
            "milliseconds": {
                "all": _quantiles(everything),
                "cached": _quantiles(hits),
                "not_cached": _quantiles(others),
            },
        }


def _quantiles(values: "array[float]") -> dict[str, float]:
    ordered = array("d", sorted(values))
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(ordered, share), 3) for name, share in shares.items()}
