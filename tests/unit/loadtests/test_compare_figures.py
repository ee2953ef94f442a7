"""The comparison's arithmetic."""

import pytest

from loadtests.compare.figures import Floor, Load, ReportError, Sample, parse_wrk, ratio

REPORT = """Running 2s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.14ms    1.00ms  20.00ms   90.00%
    Req/Sec    12.00k     1.00k   13.00k    70.00%
  Latency Distribution
     50%  850.00us
     75%    2.00ms
     90%    3.00ms
     99%    1.20s
  24230 requests in 2.00s, 32.00MB read
Requests/sec:  12115.25
Transfer/sec:     16.00MB
"""


def sample(rate: float) -> Sample:
    return Sample(Load(requests=10, rate=rate, bytes_rate=1, p50_ms=1, p99_ms=1), cpu_us=1, pss_bytes=1)


def test_a_report_is_read_in_one_unit_each() -> None:
    assert parse_wrk(REPORT) == Load(24230, 12115.25, 16 * 1024 * 1024, p50_ms=0.85, p99_ms=1200)


@pytest.mark.parametrize(
    "line",
    ["  Socket errors: connect 0, read 1, write 0, timeout 0", "  Non-2xx or 3xx responses: 7"],
)
def test_a_report_of_errors_is_refused(line: str) -> None:
    with pytest.raises(ReportError, match=line.strip()):
        parse_wrk(REPORT + line + "\n")


def test_a_report_without_a_figure_is_refused() -> None:
    with pytest.raises(ReportError, match="cannot be read"):
        parse_wrk(REPORT.replace("Requests/sec", "Requests"))


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    rounds = [{"a": sample(a), "b": sample(b)} for a, b in ((10, 10), (2, 1), (90, 30))]
    assert ratio(rounds, "a", Floor("b", 0)) == 2


def test_a_ratio_to_nothing_is_refused() -> None:
    with pytest.raises(ReportError):
        ratio([{"a": sample(1), "b": sample(0)}], "a", Floor("b", 0))


def test_a_floor_may_be_a_ceiling() -> None:
    assert Floor("nginx", 1.0).met(1.1)
    assert not Floor("nginx", 1.0).met(0.9)
    assert Floor("nginx", 1.4, "p50_ms", at_most=True).met(1.3)
    assert not Floor("nginx", 1.4, "p50_ms", at_most=True).met(1.5)
