"""What admission reads of a response (RFC 9111 §3, §4.2)."""

import pytest

from proxy.policy.model import DEFAULT_OPTIONS, EntityTag, PolicyOptions, Stored
from tests.unit.policy.build import NOW, date, keep, reply, reply_with


def stored(cache_control: str, options: PolicyOptions = DEFAULT_OPTIONS) -> Stored:
    return keep(reply(Cache_Control=cache_control), options=options)


def test_admission_reads_everything_once() -> None:
    found = keep(
        reply(
            200,
            ("Vary", "B, a"),
            Date=date(-5),
            Age="3",
            ETag='W/"x"',
            Last_Modified=date(-500),
            Cache_Control="max-age=60, stale-while-revalidate=10, stale-if-error=20, immutable",
        ),
        delay=1,
        body_length=123,
    )
    assert found.initial_age == 5
    assert found.fresh_until == NOW + 55
    assert found.stale_while_revalidate_until == NOW + 65
    assert found.stale_if_error_until == NOW + 75
    assert (found.etag, found.last_modified, found.date) == (EntityTag("x", weak=True), NOW - 500, NOW - 5)
    assert found.vary == ("a", "b")
    assert found.immutable
    assert (found.method, found.status, found.reason_phrase, found.body_length) == ("GET", 200, "Reason", 123)
    assert (found.request_time, found.response_time) == (NOW - 1, NOW)
    assert "Age" not in found.headers
    assert found.content_range is None


@pytest.mark.parametrize("fields", [{}, {"Date": "junk"}])
def test_missing_or_invalid_date_is_set_on_arrival(fields: dict[str, str]) -> None:
    found = keep(reply_with({"Cache_Control": "max-age=60"} | fields))
    assert found.headers.getall("Date") == [date(0)]
    assert found.date == NOW


@pytest.mark.parametrize(
    ("cache_control", "must_validate", "never_stale"),
    [
        ("max-age=1", False, False),
        ("max-age=1, no-cache", True, True),
        ('max-age=1, no-cache="x"', False, False),
        ('max-age=1, no-cache="content-type"', True, True),
        ("max-age=1, must-revalidate", False, True),
        ("max-age=1, proxy-revalidate", False, True),
        ("s-maxage=1", False, True),
        ("max-age=1, must-revalidate=x", False, True),
    ],
)
def test_what_forbids_stale_use(cache_control: str, must_validate: bool, never_stale: bool) -> None:
    options = PolicyOptions(stale_if_error=60, stale_while_revalidate=60)
    found = stored(cache_control + ", stale-while-revalidate=50, stale-if-error=50", options)
    assert (found.must_validate, found.never_stale) == (must_validate, never_stale)
    if never_stale:
        assert found.stale_if_error_until == found.stale_while_revalidate_until == found.fresh_until


def test_route_windows_stand_in_for_missing_directives() -> None:
    options = PolicyOptions(stale_if_error=7, stale_while_revalidate=5)
    found = stored("max-age=60", options)
    assert found.stale_while_revalidate_until == NOW + 65
    assert found.stale_if_error_until == NOW + 67
    told = stored("max-age=60, stale-if-error=0, stale-while-revalidate=x", options)
    assert told.stale_if_error_until == told.stale_while_revalidate_until == NOW + 60
