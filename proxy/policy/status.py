"""Cache-Status (RFC 9211): what the cache did, for the client to read."""

from math import floor
from typing import Final, Protocol, final

from proxy.http.message import to_wire
from proxy.policy.reasons import Reason

CACHE_NAME: Final = "sidecache"
_KEY_MAX: Final = 1024
_TTL_MAX: Final = 10**15 - 1


class Report(Protocol):
    """What is known of how a request was handled."""

    @property
    def reason(self) -> Reason | None:
        """Why."""
        ...

    @property
    def fwd(self) -> str:
        """Why it went forward (RFC 9211 §2.2); empty when it did not."""
        ...

    @property
    def fwd_status(self) -> int | None:
        """What the next hop answered."""
        ...

    @property
    def stored(self) -> bool:
        """The response was stored."""
        ...

    @property
    def collapsed(self) -> bool:
        """The request waited for another one's response."""
        ...

    @property
    def ttl(self) -> float | None:
        """Seconds of freshness left, negative when stale."""
        ...

    @property
    def key(self) -> str:
        """The cache key."""
        ...


def cache_status(report: Report, *, key: bool = False, detail: bool = True) -> str:
    """The list member that this cache appends to `Cache-Status`.

    Args:
        key: tell the cache key; it helps an attacker, too (RFC 9211 §6).
        detail: tell the reason's token.
    """
    # Written out: every part but the key is a token, a number or a flag, and each hit pays for it (1 µs; by way of a
    # structured-fields library, 20).
    text = CACHE_NAME
    if report.fwd:
        text += f";fwd={report.fwd}"
        if report.fwd_status is not None:
            text += f";fwd-status={report.fwd_status}"
    elif report.reason is not Reason.ONLY_IF_CACHED:
        text += ";hit"
    if report.ttl is not None:
        text += f";ttl={max(-_TTL_MAX, min(_TTL_MAX, int(report.ttl // 1)))}"
    if report.fwd and report.stored:
        text += ";stored"
    if report.fwd and report.collapsed:
        text += ";collapsed"
    if key and report.key:
        text += f";key={_sf_string(report.key)}"
    if detail and report.reason is not None:
        text += f";detail={report.reason.token}"
    return text


@final
class StatusByTtl:
    """What `cache_status` gives for reports that are alike but for their `ttl`: all else is written once.

    Args:
        at_zero: it, for a `ttl` of 0.
    """

    __slots__ = ("_before", "_behind")

    def __init__(self, at_zero: str) -> None:
        before, self._behind = at_zero.split(";ttl=0", 1)
        self._before = before + ";ttl="

    def at(self, ttl: float) -> str:
        """It, for so many seconds, of any lifetime that a field can say."""
        return f"{self._before}{floor(ttl)}{self._behind}"


def _sf_string(text: str) -> str:
    """`text` as a Structured Field String (RFC 9651 §3.3.3), as far as that can hold it: visible ASCII and spaces, the
    rest percent-encoded.
    """
    encoded = "".join(chr(byte) if 0x20 <= byte <= 0x7E else f"%{byte:02X}" for byte in to_wire(text))
    return '"' + encoded[:_KEY_MAX].replace("\\", "\\\\").replace('"', '\\"') + '"'
