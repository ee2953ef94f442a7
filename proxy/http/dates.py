"""HTTP-date (RFC 9110 §5.6.7): three forms are read, one is written.

Names of days and months, and `GMT`, are matched without regard to case (RFC 9111 §4.2). Any other zone is invalid.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_MONTH_NUMBER: Final = {name.lower(): number for number, name in enumerate(MONTHS, 1)}
_DAY: Final = "(?:" + "|".join(DAYS) + ")"
_LONG_DAY: Final = "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)"
_MONTH: Final = "(?P<month>" + "|".join(MONTHS) + ")"
_TIME: Final = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_IMF_FIXDATE: Final = re.compile(
    rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT", re.IGNORECASE | re.ASCII
)
_RFC850: Final = re.compile(
    rf"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT", re.IGNORECASE | re.ASCII
)
_ASCTIME: Final = re.compile(
    rf"{_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})", re.IGNORECASE | re.ASCII
)
_FIXED_LENGTH: Final = len("Sun, 06 Nov 1994 08:49:37 GMT")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIFTY_YEARS: Final = 50 * 365.2425 * 86_400


def parse_date(text: str | None, now: float) -> float | None:
    """Seconds since the epoch; None when `text` is no HTTP-date.

    Args:
        now: wall seconds; places the two-digit year of the RFC 850 form.
    """
    if text is None:
        return None
    text = text.strip(" \t")
    if len(text) == _FIXED_LENGTH:
        return _seconds_of_fixdate(text)
    match = _ASCTIME.fullmatch(text)
    if match is not None:
        return _seconds(match, int(match["year"]))
    match = _RFC850.fullmatch(text)
    return _seconds_of_rfc850(match, now) if match is not None else None


def format_date(seconds: float) -> str:
    """`seconds` as an IMF-fixdate, rounded down."""
    return _format(int(seconds // 1))


@lru_cache(maxsize=256)
def _format(seconds: int) -> str:
    moment = _EPOCH + timedelta(seconds=seconds)
    return (
        f"{DAYS[moment.weekday()]}, {moment.day:02} {MONTHS[moment.month - 1]} {moment.year:04} "
        f"{moment.hour:02}:{moment.minute:02}:{moment.second:02} GMT"
    )


@lru_cache(maxsize=1024)
def _seconds_of_fixdate(text: str) -> float | None:
    # A response's dates are read several times, and one second's responses share theirs: 0.3 µs instead of 6.
    match = _IMF_FIXDATE.fullmatch(text)
    if match is not None:
        return _seconds(match, int(match["year"]))
    return None


def _seconds(match: re.Match[str], year: int) -> float | None:
    second = int(match["second"])
    if second > 60:
        return None
    try:
        moment = datetime(
            year,
            _MONTH_NUMBER[match["month"].lower()],
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            min(second, 59),  # a leap second, which POSIX time has no room for, is the second before
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return (moment - _EPOCH).total_seconds()


def _seconds_of_rfc850(match: re.Match[str], now: float) -> float | None:
    """The latest year with these two digits that is not more than 50 years ahead (RFC 9110 §5.6.7)."""
    this_year = (_EPOCH + timedelta(seconds=now)).year
    century = this_year - this_year % 100
    for year in (century + 100, century, century - 100):
        seconds = _seconds(match, year + int(match["year"]))
        if seconds is not None and seconds - now <= _FIFTY_YEARS:
            return seconds
    return None
