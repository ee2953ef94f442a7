"""HTTP-date: three forms in, one out."""

import calendar
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.dates import format_date, parse_date

NOW = 1_700_000_000.0  # 14 November 2023
EXAMPLE = 784_111_777.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", EXAMPLE),
        ("Sunday, 06-Nov-94 08:49:37 GMT", EXAMPLE),
        ("Sun Nov  6 08:49:37 1994", EXAMPLE),
        ("Sun Nov 06 08:49:37 1994", EXAMPLE),
        ("  Sun, 06 Nov 1994 08:49:37 GMT\t", EXAMPLE),
        # RFC 9111 §4.2: without regard to case.
        ("sun, 06 nov 1994 08:49:37 gmt", EXAMPLE),
        ("SUN, 06 NOV 1994 08:49:37 GMT", EXAMPLE),
        ("sunday, 06-nov-94 08:49:37 gmt", EXAMPLE),
        ("sun nov  6 08:49:37 1994", EXAMPLE),
        # The name of the day is not checked against the date.
        ("Mon, 06 Nov 1994 08:49:37 GMT", EXAMPLE),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", -1.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799.0),
        ("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_800.0),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_799.0),  # a leap second
        # RFC 9110 §5.6.7: a two-digit year more than 50 years ahead is the past's.
        ("Friday, 01-Jan-99 00:00:00 GMT", 915_148_800.0),
        ("Friday, 01-Jan-73 00:00:00 GMT", 3_250_454_400.0),
        ("Friday, 01-Jan-74 00:00:00 GMT", 126_230_400.0),
        ("Friday, 01-Jan-00 00:00:00 GMT", 946_684_800.0),
        ("Friday, 29-Feb-00 00:00:00 GMT", 951_782_400.0),
    ],
)
def test_date_is_read(text: str, expected: float) -> None:
    assert parse_date(text, NOW) == expected


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "0",
        "-1",
        "now",
        "1700000000",
        "2023-11-14T22:13:20Z",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 UT",
        "Sun, 06 Nov 1994 08:49:37 EST",
        "Sun, 06 Nov 1994 08:49:37 AEST",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 GMT+1",
        "Sun, 06 Nov 1994 08:49:37 GMT foo",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun 06 Nov 1994 08:49:37 GMT",
        "Sun,06 Nov 1994 08:49:37 GMT",
        "Sun, 06  Nov 1994 08:49:37 GMT",
        "Sun, 06-Nov-1994 08:49:37 GMT",
        "Sunday, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06-Nov-94 08:49:37 GMT",
        "Sun, 06 Nov 1994 8:49:37 GMT",
        "Sun, 06 Nov 1994 08.49.37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Wed, 29 Feb 2023 00:00:00 GMT",
        "Sat, 01 Jan 0000 00:00:00 GMT",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "Xxx, 06 Nov 1994 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov  6 08:49:37 94",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
        "\nSun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 31-Feb-94 08:49:37 GMT",
    ],
)
def test_what_is_no_date_is_none(text: str | None) -> None:
    assert parse_date(text, NOW) is None


@given(st.integers(-60_000_000_000, 253_402_300_799))
@settings(deadline=None)
def test_written_date_reads_as_itself(seconds: int) -> None:
    assert parse_date(format_date(seconds), NOW) == seconds


@given(st.floats(0, 4_000_000_000))
@settings(deadline=None)
def test_date_is_written_rounded_down(seconds: float) -> None:
    written = parse_date(format_date(seconds), NOW)
    assert written is not None
    assert written <= seconds < written + 1


@given(st.integers(0, 4_000_000_000))
@settings(deadline=None)
def test_other_forms_read_the_same(seconds: int) -> None:
    moment = time.gmtime(seconds)
    assert parse_date(time.asctime(moment), NOW) == seconds
    assert calendar.timegm(moment) == parse_date(format_date(seconds), NOW)


@given(st.integers(0, 3_000_000_000), st.integers(0, 3_000_000_000))
@settings(deadline=None)
def test_two_digit_year_is_never_more_than_fifty_years_ahead(seconds: int, now: int) -> None:
    text = time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(seconds))
    read = parse_date(text, now)
    if read is not None:  # 29 February does not exist in every century
        assert -100.1 * 365.25 * 86_400 <= read - now <= 50 * 365.25 * 86_400
        assert time.gmtime(read).tm_year % 100 == time.gmtime(seconds).tm_year % 100


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York", "UTC"])
def test_local_zone_has_no_say(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TZ", zone)
    time.tzset()
    try:
        assert parse_date("Sun, 06 Nov 1994 08:49:37 GMT", NOW) == EXAMPLE
        assert format_date(EXAMPLE) == "Sun, 06 Nov 1994 08:49:37 GMT"
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(max_size=40))
@settings(deadline=None)
def test_reading_never_raises(text: str) -> None:
    parse_date(text, NOW)
