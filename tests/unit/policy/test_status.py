"""Cache-Status (RFC 9211)."""

from dataclasses import dataclass, replace
from typing import Any, cast

import http_sf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policy.reasons import Reason
from proxy.policy.status import Report, StatusByTtl, cache_status


@dataclass(frozen=True)
class Handled:
    reason: Reason | None = None
    fwd: str = ""
    fwd_status: int | None = None
    stored: bool = False
    collapsed: bool = False
    ttl: float | None = None
    key: str = ""


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (Handled(Reason.FRESH, ttl=30.9), "sidecache; hit; ttl=30; detail=fresh"),
        (Handled(Reason.FRESH), "sidecache; hit; detail=fresh"),
        (Handled(), "sidecache; hit"),
        (Handled(Reason.STALE_IF_ERROR, ttl=-412.0), "sidecache; hit; ttl=-412; detail=stale-if-error"),
        (Handled(Reason.STALE_WHILE_REVALIDATE, ttl=-0.5), "sidecache; hit; ttl=-1; detail=stale-while-revalidate"),
        (Handled(Reason.NOTHING_STORED, "uri-miss"), "sidecache; fwd=uri-miss; detail=nothing-stored"),
        (
            Handled(Reason.VALIDATED, "stale", 304, stored=True, ttl=60),
            "sidecache; fwd=stale; fwd-status=304; ttl=60; stored; detail=validated",
        ),
        (
            Handled(Reason.NOTHING_STORED, "uri-miss", 200, stored=True, collapsed=True),
            "sidecache; fwd=uri-miss; fwd-status=200; stored; collapsed; detail=nothing-stored",
        ),
        (Handled(Reason.FRESH, stored=True, collapsed=True, fwd_status=200), "sidecache; hit; detail=fresh"),
        (Handled(Reason.CACHE_OFF, "bypass"), "sidecache; fwd=bypass; detail=cache-off"),
        # Generated here, of nothing stored: neither a hit nor forwarded.
        (Handled(Reason.ONLY_IF_CACHED), "sidecache; detail=only-if-cached"),
    ],
)
def test_member(report: Report, expected: str) -> None:
    assert cache_status(report) == expected.replace("; ", ";")


def test_key_and_detail_can_be_told_or_kept_back() -> None:
    report = Handled(Reason.FRESH, key='GET https://h/"a"?b=\\\u00e9\n')
    assert cache_status(report, detail=False) == "sidecache;hit"
    assert cache_status(report, key=True, detail=False) == ('sidecache;hit;key="GET https://h/\\"a\\"?b=\\\\%C3%A9%0A"')
    assert cache_status(Handled(), key=True) == "sidecache;hit"


@given(
    st.sampled_from(
        [
            Handled(Reason.FRESH),
            Handled(),
            Handled(Reason.NOTHING_STORED, "uri-miss", 200, stored=True),
            Handled(Reason.NOTHING_STORED, "uri-miss", stored=True, collapsed=True),
            Handled(Reason.FRESH, key="GET http://h/;ttl=0?ttl=0"),
        ]
    ),
    st.floats(-(10**12), 10**12),
)
def test_written_once_but_for_its_ttl_it_is_the_same(report: Handled, ttl: float) -> None:
    status = StatusByTtl(cache_status(replace(report, ttl=0.0), key=True))
    assert status.at(ttl) == cache_status(replace(report, ttl=ttl), key=True)


@given(
    st.builds(
        Handled,
        st.none() | st.sampled_from(Reason),
        st.sampled_from(["", "uri-miss", "stale"]),
        st.none() | st.integers(100, 599),
        st.booleans(),
        st.booleans(),
        st.none() | st.floats(-1e30, 1e30),
        st.text(max_size=30) | st.just("x" * 5000),
    ),
    st.booleans(),
)
@settings(deadline=None)
def test_any_report_is_a_structured_field(report: Handled, key: bool) -> None:
    parsed = http_sf.parse(cache_status(report, key=key).encode("ascii"), tltype="list")
    ((name, parameters),) = cast("list[tuple[Any, dict[str, Any]]]", parsed)
    assert name == http_sf.Token("sidecache")
    assert not {"hit", "fwd"} <= set(parameters)
