"""What the comparison computes: wrk's report read, medians of ratios, floors judged. No processes here."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

Metric = Literal["rate", "bytes_rate", "p50_ms", "p99_ms"]

_SECONDS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6}
_BYTES: Final = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_PERCENTILE: Final = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m|h)\s*$", re.MULTILINE)
_TOTAL: Final = re.compile(r"^\s*(\d+) requests in ", re.MULTILINE)
_RATE: Final = re.compile(r"^Requests/sec:\s+([\d.]+)", re.MULTILINE)
_TRANSFER: Final = re.compile(r"^Transfer/sec:\s+([\d.]+)([KMGT]?B)", re.MULTILINE)
_SOCKET_ERRORS: Final = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_BAD_STATUS: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)")


class ReportError(ValueError):
    """wrk's report cannot be read, or tells of errors."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw."""

    requests: int
    rate: float  # requests a second
    bytes_rate: float  # bytes a second
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One system in one round."""

    load: Load
    cpu_us: float  # processor time of the proxy per request, microseconds
    pss_bytes: int
    l2_share: float | None = None  # answers of the second tier per request, where that is what is measured

    @property
    def busy(self) -> float:
        """The share of a core that the proxy used: well below 1, something else set the pace."""
        return self.load.rate * self.cpu_us / 1e6

    def value(self, metric: Metric) -> float:
        """The figure that a floor speaks of."""
        value: float = getattr(self.load, metric)
        return value


@dataclass(frozen=True, slots=True)
class Floor:
    """A ratio of the first system's figure to another's that is to be reached, or with `at_most` not passed.

    Attributes:
        over: a system whose figure is first taken from both: what a proxy adds to the origin's latency.
    """

    against: str
    ratio: float
    metric: Metric = "rate"
    at_most: bool = False
    over: str | None = None

    def met(self, measured: float) -> bool:
        """Whether a measured ratio keeps it."""
        return measured <= self.ratio if self.at_most else measured >= self.ratio


def parse_wrk(text: str) -> Load:
    """Read the report of `wrk --latency`.

    Raises:
        ReportError: a figure is missing, nothing was answered, or there were socket errors or statuses from 400 on.
    """
    if (errors := _SOCKET_ERRORS.search(text)) and any(int(count) for count in errors.groups()):
        raise ReportError(errors.group())
    if bad := _BAD_STATUS.search(text):
        raise ReportError(bad.group())
    total, rate, transfer = _TOTAL.search(text), _RATE.search(text), _TRANSFER.search(text)
    times = {share: float(number) * _SECONDS[unit] for share, number, unit in _PERCENTILE.findall(text)}
    if not (total and rate and transfer and times.keys() == {"50", "99"}):
        raise ReportError(f"wrk's report cannot be read:\n{text}")
    if not int(total[1]):
        raise ReportError("no request was answered")
    return Load(
        requests=int(total[1]),
        rate=float(rate[1]),
        bytes_rate=float(transfer[1]) * _BYTES[transfer[2]],
        p50_ms=times["50"],
        p99_ms=times["99"],
    )


def ratio(rounds: Sequence[Mapping[str, Sample]], subject: str, floor: Floor) -> float:
    """The median over rounds of `subject`'s figure over another's: a slow moment of the machine strikes both alike.

    Args:
        rounds: the samples of each round by system; a round that lacks one of those asked for does not count.
        subject: the system that is judged.
        floor: says against which other one, in what.

    Raises:
        ReportError: there is no such round, or the other's figure is nought or below.
    """
    ratios = []
    for samples in rounds:
        if {subject, floor.against, floor.over or subject} <= samples.keys():
            base = samples[floor.over].value(floor.metric) if floor.over else 0.0
            below = samples[floor.against].value(floor.metric) - base
            if below <= 0:
                raise ReportError(f"{floor.against} has a {floor.metric} of {below:g}: no ratio to it")
            ratios.append((samples[subject].value(floor.metric) - base) / below)
    if not ratios:
        raise ReportError(f"no round has both {subject} and {floor.against}")
    return median(ratios)


def middle(samples: Sequence[Sample]) -> Sample:
    """The medians of each figure."""
    loads = [sample.load for sample in samples]
    shares = [sample.l2_share for sample in samples if sample.l2_share is not None]
    return Sample(
        load=Load(
            requests=int(median(load.requests for load in loads)),
            rate=median(load.rate for load in loads),
            bytes_rate=median(load.bytes_rate for load in loads),
            p50_ms=median(load.p50_ms for load in loads),
            p99_ms=median(load.p99_ms for load in loads),
        ),
        cpu_us=median(sample.cpu_us for sample in samples),
        pss_bytes=int(median(sample.pss_bytes for sample in samples)),
        l2_share=median(shares) if shares else None,
    )
