"""Every reason a decision can carry. The one place where a reason is worded.

The value is the token seen in log lines, metric labels and the `detail` parameter of `Cache-Status` (RFC 9211 §2.8);
`fwd` is what RFC 9211 §2.2 calls it, for reasons that send a request forward.
"""

from enum import Enum


class Reason(Enum):
    """Why the policy decided as it did."""

    # Answered from the cache.
    FRESH = "fresh"
    VALIDATED = "validated"
    STALE_WHILE_REVALIDATE = "stale-while-revalidate"
    STALE_IF_ERROR = "stale-if-error"
    REQUEST_MAX_STALE = "request-max-stale"
    # Not answered from the cache.
    NOTHING_STORED = "nothing-stored"

    @property
    def token(self) -> str:
        """The reason as a token."""
        return self.value
