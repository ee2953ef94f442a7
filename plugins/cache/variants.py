"""Where the variants of a resource are kept, and how many may be."""

from proxy.http.message import Request
from proxy.policy import vary
from proxy.policy.reasons import Reason
from proxy.storage.base import CacheKey, VaryMarker
from proxy.storage.memory import MemoryStore


def variant_place(primary: str, marker: VaryMarker, request: Request) -> CacheKey:
    """The key of the variant that `request` selects."""
    return CacheKey(primary, f"{marker.generation}.{vary.variant_key(marker.names, request.headers)}")


def why_missing(reason: Reason, marker: VaryMarker | None) -> Reason:
    """`reason`, or that no variant was selected where `marker` tells that the resource has some (RFC 9211 §2.2)."""
    return Reason.VARY_MISS if reason is Reason.NOTHING_STORED and marker is not None else reason


def is_crowded(l1: MemoryStore, key: CacheKey, marker: VaryMarker, now: float, max_variants: int) -> bool:
    """Whether the resource has all the variants it may have, and the one under `key` would be one more.

    Newcomers are refused, nobody is displaced: odd values sent on purpose cannot push out the variants in use. What
    counts is what L1 holds and can still use at `now`, wall seconds. Only storing looks at that; a hit costs nothing.
    """
    generation = f"{marker.generation}."
    in_use = 0
    for other in l1.keys_of_primary(key.primary):
        discard_at = l1.discard_at(other) if other.variant.startswith(generation) else None
        if discard_at is not None and discard_at > now:
            if other == key:
                return False
            in_use += 1
    return in_use >= max_variants
