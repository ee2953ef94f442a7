"""A response that differs from one before it in its own values alone is admitted as if it had been read anew."""

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from proxy.http.dates import format_date, parse_date
from proxy.http.message import Headers, Request, Response, make_headers
from proxy.policy.admission import Pattern, admit, admit_alike, pattern_of
from proxy.policy.model import PolicyOptions, Stored
from proxy.policy.recurring import Recurring
from proxy.policy.reuse import discard_at
from proxy.policy.storing import may_store

NOW: Final = 1_700_000_000.25
EARLIER: Final = "Tue, 14 Nov 2023 00:00:00 GMT"
OWN: Final = ("Date", "ETag", "Last-Modified", "Content-Length", "X-Request-ID")

TIMES: Final = st.floats(NOW - 100_000, NOW + 100, allow_nan=False)
DATES: Final = st.builds(format_date, TIMES) | st.sampled_from(["", "never", "Tue, 14 Nov 2023 22:13:20 GMT"])
TAGS: Final = st.sampled_from(['"a"', 'W/"b"', "bare", "", '"x" "y"'])
CACHE_CONTROL: Final = st.lists(
    st.sampled_from([
        "max-age=60", "max-age=60", "s-maxage=30", "max-age=0", "public", "no-cache", "must-revalidate", "private",
        "stale-while-revalidate=5", "stale-if-error=9", "immutable", "must-understand", "max-age=x", "max-age=3",
    ]),
    max_size=3,
).map(", ".join)  # fmt: skip
OTHERS: Final = st.lists(
    st.sampled_from([
        ("Content-Type", "text/css"), ("Content-Type", "application/json"), ("Vary", "Accept"), ("Age", "7"),
        ("Expires", "Tue, 14 Nov 2023 23:13:20 GMT"), ("Set-Cookie", "a=b"), ("CDN-Cache-Control", "max-age=7"),
        ("Connection", "Date"), ("Cache-Tag", "a b"), ("Pragma", "no-cache"),
    ]),
    max_size=3,
    unique_by=lambda pair: pair[0],
)  # fmt: skip


@st.composite
def own_values(draw: st.DrawFn) -> dict[str, str]:
    """Of each field in `OWN`."""
    return {
        "Date": draw(DATES),
        "ETag": draw(TAGS),
        "Last-Modified": draw(DATES),
        "Content-Length": str(draw(st.integers(0, 9999))),
        "X-Request-ID": draw(st.text("abc0", max_size=4)),
    }


def headers_of(fixed: list[tuple[str, str]], own: dict[str, str], present: list[str]) -> Headers:
    return make_headers([*fixed, *((name, own[name]) for name in present)])


@settings(max_examples=400)
@given(
    status=st.sampled_from([200, 200, 203, 301, 404, 410]),
    caching=CACHE_CONTROL,
    others=OTHERS,
    present=st.lists(st.sampled_from(OWN), unique=True).map(lambda names: ["Date", *(n for n in names if n != "Date")]),
    first=own_values(),
    second=own_values(),
    target=st.sampled_from(["/a", "/a.css", "/a.json?q=1", "/%2ecss"]),
    other_target=st.sampled_from(["/b", "/b.css", "/b.js"]),
    options=st.builds(
        PolicyOptions,
        max_ttl=st.none() | st.just(10.0),
        default_ttl=st.none() | st.just(5.0),
        stale_while_revalidate=st.sampled_from([0.0, 3.0]),
        stale_if_error=st.sampled_from([0.0, 4.0]),
        store_set_cookie=st.booleans(),
    ),
    delay=st.floats(0, 3),
    later=st.floats(0, 1_000),
    sooner=st.floats(0, 30),
    other_delay=st.floats(-1, 3),
)
def test_alike_responses_are_admitted_alike(
    status: int, caching: str, others: list[tuple[str, str]], present: list[str], first: dict[str, str],
    second: dict[str, str], target: str, other_target: str, options: PolicyOptions, delay: float, later: float,
    sooner: float, other_delay: float,
) -> None:  # fmt: skip
    fixed = [("Cache-Control", caching), *others]
    known_request, request = Request("GET", target, host="h"), Request("GET", other_target, host="h")
    known = Response(status, headers_of(fixed, first, present), b"x")
    if not may_store(known_request, known, options):
        return
    stored = admit(known_request, known, request_time=NOW - delay, response_time=NOW, body_length=1, options=options)
    pattern = pattern_of(known, stored, options)
    event("there is a pattern" if pattern is not None else "there is none")
    if pattern is None:
        return
    alike = Response(status, headers_of(fixed, second, present), b"yz")
    received = NOW + later
    expected = admit(
        request, alike, request_time=received - delay, response_time=received, body_length=2, options=options
    )
    assert may_store(request, alike, options)
    own = [(name, second[name]) for name in present]
    made = admit_alike(
        pattern,
        own,
        request_time=received - delay,
        response_time=received,
        body_length=2,
        no_default_ttl=expected.no_default_ttl,
    )
    assert made == expected
    assert [*made.headers.items()] == [*expected.headers.items()]
    if made.fresh_until > received:
        check_that_it_recurs(pattern, made, own, received + sooner, other_delay)


def check_that_it_recurs(
    pattern: Pattern, first: Stored, own: list[tuple[str, str]], received: float, delay: float
) -> None:
    """The same head once more is admitted with the times that its recurrence tells, and alike in all else."""
    date = parse_date(dict(own)["Date"], received)
    if date is None:  # the time of the response stands in for it
        return
    again = admit_alike(
        pattern,
        own,
        request_time=received - delay,
        response_time=received,
        body_length=first.body_length,
        no_default_ttl=first.no_default_ttl,
    )
    moments = Recurring(pattern, first).times(date, received - delay, received)
    event("it recurs" if moments is not None else "it recurs stale")
    if moments is None:
        assert again.fresh_until <= received
        return
    _, request_time, response_time, initial_age, fresh_until = moments
    assert moments[0] == discard_at(again)
    assert again == replace(
        first,
        request_time=request_time,
        response_time=response_time,
        initial_age=initial_age,
        fresh_until=fresh_until,
        stale_while_revalidate_until=fresh_until + pattern.said.while_revalidate,
        stale_if_error_until=fresh_until + pattern.said.if_error,
    )


@pytest.mark.parametrize(
    ("method", "status", "lines", "options"),
    [
        (
            "GET",
            200,
            [("Cache-Control", "public"), ("Last-Modified", EARLIER)],
            PolicyOptions(),
        ),
        ("GET", 200, [("Cache-Control", "max-age=60"), ("Age", "3")], PolicyOptions()),
        ("GET", 200, [("Cache-Control", "max-age=60"), ("Connection", "Date")], PolicyOptions()),
        ("GET", 200, [("Cache-Control", "max-age=60"), ("Vary", "Accept")], PolicyOptions()),
        ("POST", 200, [("Cache-Control", "max-age=60")], PolicyOptions(methods=("POST",))),
        ("GET", 206, [("Cache-Control", "max-age=60"), ("Content-Range", "bytes 0-0/2")], PolicyOptions()),
        ("GET", 200, [("Cache-Control", "max-age=60, no-cache"), ("ETag", '"a"')], PolicyOptions()),
        ("GET", 200, [("Cache-Control", "max-age=0"), ("ETag", '"a"')], PolicyOptions()),
    ],
)
def test_there_is_no_pattern_where_own_values_tell(
    method: str, status: int, lines: list[tuple[str, str]], options: PolicyOptions
) -> None:
    made = Response(status, make_headers([("Date", "Tue, 14 Nov 2023 22:13:20 GMT"), *lines]), b"x")
    times = {"request_time": NOW, "response_time": NOW}
    stored = admit(Request(method, "/a", host="h"), made, body_length=1, options=options, **times)
    assert pattern_of(made, stored, options) is None
