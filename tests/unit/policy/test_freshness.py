"""Lifetime and age (RFC 9111 §4.2)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.cache_control import DELTA_MAX
from proxy.http.message import make_headers
from proxy.policy.freshness import HEURISTICALLY_CACHEABLE, PROVOKED, age_value, current_age, initial_age, lifetime
from proxy.policy.model import Lifetime, PolicyOptions
from proxy.policy.reasons import Reason
from tests.unit.policy.build import NOW, date, keep, reply, reply_with


def life(fields: dict[str, str], options: PolicyOptions | None = None, status: int = 200) -> Lifetime:
    return lifetime(reply_with(fields, status), received=NOW, options=options or PolicyOptions())


@pytest.mark.parametrize(
    ("fields", "seconds", "reason"),
    [
        ({"Cache_Control": "max-age=60"}, 60, Reason.LIFETIME_MAX_AGE),
        ({"Cache_Control": "s-maxage=30, max-age=60"}, 30, Reason.LIFETIME_S_MAXAGE),
        ({"Cache_Control": "max-age=60, s-maxage=90"}, 90, Reason.LIFETIME_S_MAXAGE),
        ({"Cache_Control": "s-maxage=0, max-age=60"}, 0, Reason.LIFETIME_S_MAXAGE),
        ({"Cache_Control": "s-maxage=x, max-age=60"}, 0, Reason.LIFETIME_MALFORMED),
        ({"Cache_Control": "max-age=x", "Expires": date(60)}, 0, Reason.LIFETIME_MALFORMED),
        ({"Cache_Control": "max-age=1, max-age=2"}, 0, Reason.LIFETIME_MALFORMED),
        ({"Cache_Control": "max-age=60", "Expires": date(9)}, 60, Reason.LIFETIME_MAX_AGE),
        ({"Cache_Control": "max-age=60", "Expires": "0"}, 60, Reason.LIFETIME_MAX_AGE),
        ({"Expires": date(60)}, 60, Reason.LIFETIME_EXPIRES),
        ({"Expires": date(60), "Date": date(-10)}, 70, Reason.LIFETIME_EXPIRES),
        ({"Expires": date(60), "Date": date(10)}, 50, Reason.LIFETIME_EXPIRES),
        ({"Expires": date(60), "Date": "today"}, 60, Reason.LIFETIME_EXPIRES),
        ({"Expires": date(-60)}, 0, Reason.LIFETIME_EXPIRES),
        ({"Expires": date(0)}, 0, Reason.LIFETIME_EXPIRES),
        ({"Expires": "0"}, 0, Reason.LIFETIME_MALFORMED),
        ({"Expires": ""}, 0, Reason.LIFETIME_MALFORMED),
        ({"Expires": "Thu, 18 Aug 2050 02:01:18 UTC"}, 0, Reason.LIFETIME_MALFORMED),
        ({"Expires": "Fri, 31 Dec 9999 23:59:59 GMT"}, DELTA_MAX, Reason.LIFETIME_EXPIRES),
        ({"Cache_Control": "max-age=" + "9" * 50}, DELTA_MAX, Reason.LIFETIME_MAX_AGE),
        ({}, 0, Reason.LIFETIME_NONE),
        ({"Last_Modified": date(-1000), "Date": date(0)}, 100, Reason.LIFETIME_HEURISTIC),
        ({"Last_Modified": date(-1000)}, 100, Reason.LIFETIME_HEURISTIC),
        ({"Last_Modified": date(1000)}, 0, Reason.LIFETIME_NONE),
        ({"Last_Modified": date(-(10**8))}, 86_400, Reason.LIFETIME_HEURISTIC),
        ({"Last_Modified": "yesterday"}, 0, Reason.LIFETIME_NONE),
        ({"Last_Modified": date(-1000), "Cache_Control": "max-age=0"}, 0, Reason.LIFETIME_MAX_AGE),
        ({"Last_Modified": date(-1000), "Expires": "0"}, 0, Reason.LIFETIME_MALFORMED),
        # RFC 9213 §2.2: a targeted field is heard instead of Cache-Control and Expires.
        (
            {"CDN_Cache_Control": "max-age=5", "Cache_Control": "s-maxage=60", "Expires": date(9)},
            5,
            Reason.LIFETIME_MAX_AGE,
        ),
        ({"CDN_Cache_Control": "none", "Cache_Control": "max-age=60", "Expires": date(9)}, 0, Reason.LIFETIME_NONE),
        ({"CDN_Cache_Control": "max-age=1.5", "Cache_Control": "max-age=60"}, 0, Reason.LIFETIME_MALFORMED),
        ({"CDN_Cache_Control": "", "Cache_Control": "max-age=60"}, 60, Reason.LIFETIME_MAX_AGE),
        ({"CDN_Cache_Control": "Max-Age=5", "Cache_Control": "max-age=60"}, 60, Reason.LIFETIME_MAX_AGE),
        ({"Surrogate_Control": "max-age=5", "Cache_Control": "max-age=60"}, 60, Reason.LIFETIME_MAX_AGE),
    ],
)
def test_lifetime(fields: dict[str, str], seconds: float, reason: Reason) -> None:
    found = life(fields)
    assert (found.seconds, found.reason) == (seconds, reason)
    implicit = {Reason.LIFETIME_NONE, Reason.LIFETIME_HEURISTIC, Reason.LIFETIME_DEFAULT}
    assert found.explicit is (reason not in implicit)


@pytest.mark.parametrize("lines", [[date(60), date(60)], [date(60), date(90)], [date(60), "0"], ["0", date(60)]])
def test_several_expires_lines_agree_or_are_stale(lines: list[str]) -> None:
    found = lifetime(reply(200, *[("Expires", line) for line in lines]), received=NOW)
    assert found.seconds == (60 if len(set(lines)) == 1 else 0)


@pytest.mark.parametrize("status", range(200, 600))
def test_heuristics_are_for_cacheable_statuses_or_public_ones(status: int) -> None:
    fields = {"Last_Modified": date(-1000)}
    expected = 100 if status in HEURISTICALLY_CACHEABLE else 0
    assert life(fields, status=status).seconds == expected
    assert life(fields | {"Cache_Control": "public"}, status=status).seconds == 100


def test_heuristic_limits_are_settings() -> None:
    fields = {"Last_Modified": date(-1000)}
    assert life(fields, PolicyOptions(heuristic_fraction=0.5)).seconds == 500
    assert life(fields, PolicyOptions(heuristic_fraction=0.0)).reason is Reason.LIFETIME_NONE
    assert life(fields, PolicyOptions(heuristic_max=7)).seconds == 7


@pytest.mark.parametrize("status", sorted(HEURISTICALLY_CACHEABLE | {302, 500, 400}))
def test_default_ttl_is_used_where_the_origin_says_nothing(status: int) -> None:
    options = PolicyOptions(default_ttl=33)
    expected = 33 if status in HEURISTICALLY_CACHEABLE - PROVOKED else 0
    assert life({}, options, status).seconds == expected
    assert life({"Cache_Control": "max-age=5"}, options, status).seconds == 5
    assert life({"Cache_Control": "max-age=x"}, options, status).seconds == 0
    assert life({"Expires": "0"}, options, status).seconds == 0


def test_max_ttl_limits_any_lifetime() -> None:
    options = PolicyOptions(max_ttl=10, default_ttl=99)
    assert life({"Cache_Control": "max-age=60"}, options) == Lifetime(10, Reason.LIFETIME_MAX_AGE, explicit=True)
    assert life({"Cache_Control": "max-age=6"}, options).seconds == 6
    assert life({}, options) == Lifetime(10, Reason.LIFETIME_DEFAULT, explicit=False)


# Age.


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], 0), (["0"], 0), (["60"], 60), ([" 60 "], 60), (["007"], 7), (["60, 0"], 60), (["0, 60"], 0),
        (["60", "90"], 60), (["-1"], 0), (["1.5"], 0), (["x"], 0), ([""], 0), (["60x"], 0), (["60;x"], 0),
        (['"60"'], 0), (["9" * 12], DELTA_MAX), (["9" * 5000], DELTA_MAX), (["x, 60"], 0),
    ],
)  # fmt: skip
def test_age_field(lines: list[str], expected: int) -> None:
    assert age_value(make_headers([("Age", line) for line in lines])) == expected


@pytest.mark.parametrize(
    ("fields", "delay", "expected"),
    [
        ({}, 0, 0),
        ({}, 4, 4),  # the response delay
        ({"Age": "10"}, 0, 10),
        ({"Age": "10"}, 4, 14),
        ({"Date": date(-30)}, 0, 30),  # apparent age
        ({"Date": date(-30)}, 4, 30),
        ({"Date": date(-30), "Age": "10"}, 4, 30),
        ({"Date": date(-30), "Age": "40"}, 4, 44),
        ({"Date": date(100)}, 0, 0),  # the origin's clock is ahead
        ({"Date": date(100), "Age": "5"}, 1, 6),
        ({"Date": "x"}, 2, 2),
        ({}, -5, 0),  # the clock was set back meanwhile
    ],
)
def test_initial_age(fields: dict[str, str], delay: float, expected: float) -> None:
    headers = reply_with(fields).headers
    assert initial_age(headers, request_time=NOW - delay, response_time=NOW) == expected


def test_age_grows_with_time() -> None:
    stored = keep(reply(Age="10", Cache_Control="max-age=60"), delay=2)
    assert current_age(stored, NOW) == 12
    assert current_age(stored, NOW + 5) == 17
    assert current_age(stored, NOW - 100) == 12  # the clock was set back
    assert stored.fresh_until == NOW + 48


@given(
    st.integers(0, 10**6), st.integers(-(10**6), 10**6), st.floats(0, 1000),
    st.lists(st.floats(-(10**6), 10**6), min_size=2, max_size=6),
)  # fmt: skip
@settings(deadline=None)
def test_age_never_falls_as_time_passes(age: int, clock: int, delay: float, moments: list[float]) -> None:
    stored = keep(reply(Age=str(age), Date=date(clock)), delay=delay)
    ages = [current_age(stored, NOW + moment) for moment in sorted(moments)]
    assert ages == sorted(ages)
    assert ages[0] >= age


@given(
    st.integers(0, 10**5), st.integers(0, 10**5), st.integers(-(10**4), 10**4), st.floats(0, 100), st.floats(0, 10**5)
)
@settings(deadline=None)
def test_fresh_means_that_the_lifetime_exceeds_the_age(
    max_age: int, age: int, clock: int, delay: float, later: float
) -> None:
    response = reply(Age=str(age), Date=date(clock), Cache_Control=f"max-age={max_age}")
    stored = keep(response, delay=delay)
    left = max_age - current_age(stored, NOW + later)
    if abs(left) > 0.001:  # beyond the rounding of floats
        assert (NOW + later < stored.fresh_until) is (left > 0)
