"""Accept-Encoding."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.coding import CODINGS, bucket, preferences, weights
from proxy.http.message import make_headers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "identity"),
        ("", "identity"),
        (",", "identity"),
        ("gzip", "gzip,identity"),
        ("GZIP", "gzip,identity"),
        ("x-gzip", "gzip,identity"),
        ("br", "br,identity"),
        ("zstd", "zstd,identity"),
        ("deflate", "identity"),
        ("gzip, deflate, br, zstd", "br,zstd,gzip,identity"),
        ("gzip, br", "br,gzip,identity"),
        ("gzip;q=1.0, br;q=0.5", "gzip,br,identity"),
        ("gzip;q=0.5, br;q=0.8, zstd;q=0.9", "zstd,br,gzip,identity"),
        ("gzip; q=0.5 , br ;q=0.8", "br,gzip,identity"),
        ("gzip;Q=0", "identity"),
        ("gzip;q=0.000", "identity"),
        ("identity", "identity"),
        ("identity;q=1, gzip;q=0.5", "identity,gzip"),
        ("gzip, identity;q=0", "gzip"),
        ("identity;q=0", ""),
        ("*", "br,zstd,gzip,identity"),
        ("*;q=0", ""),
        ("gzip, *;q=0", "gzip"),
        ("br;q=0, *", "zstd,gzip,identity"),
        ("identity;q=0.5, *;q=0", "identity"),
        ("*;q=0.5, gzip", "gzip,br,zstd,identity"),
        # Malformed members count for nothing.
        ("gzip;q=2", "identity"),
        ("gzip;q=-1", "identity"),
        ("gzip;q=", "identity"),
        ("gzip;q=0.1234", "identity"),
        ("gzip;level=9", "identity"),
        ("gz ip", "identity"),
        ("gzip;q=1;q=0", "identity"),
        ("br, gzip;q=x", "br,identity"),
        # The first mention counts.
        ("gzip;q=0, gzip", "identity"),
    ],
)
def test_preferences(value: str | None, expected: str) -> None:
    headers = make_headers([] if value is None else [("Accept-Encoding", value)])
    assert bucket(headers) == expected


def test_lines_are_one_list() -> None:
    headers = make_headers([("Accept-Encoding", "gzip"), ("accept-encoding", "br;q=0.5")])
    assert preferences(headers) == ("gzip", "br", "identity")


def test_long_value_reads_the_same_as_a_short_one() -> None:
    padding = ", ".join(f"x{number}" for number in range(100))
    assert preferences(make_headers([("Accept-Encoding", f"gzip, {padding}")])) == ("gzip", "identity")


@given(st.text("brzstdgip*;q=01.,- \x00ü", max_size=60))
@settings(deadline=None)
def test_any_value_leads_to_known_codings_each_once(value: str) -> None:
    found = preferences(make_headers([("Accept-Encoding", value)]))
    assert set(found) <= set(CODINGS)
    assert len(set(found)) == len(found)
    assert all(0 <= weight <= 1 for weight in weights(value).values())


@given(
    st.lists(
        st.tuples(st.sampled_from([*CODINGS, "deflate"]), st.integers(0, 1000)), max_size=5, unique_by=lambda m: m[0]
    )
)
@settings(deadline=None)
def test_order_of_members_does_not_matter(members: list[tuple[str, int]]) -> None:
    texts = [f"{coding};q={weight / 1000:.3f}" for coding, weight in members]
    one = bucket(make_headers([("Accept-Encoding", ", ".join(texts))]))
    other = bucket(make_headers([("Accept-Encoding", ",".join(reversed(texts)))]))
    assert one == other
    excluded = {coding for coding, weight in members if weight == 0}
    assert not excluded & set(one.split(","))
