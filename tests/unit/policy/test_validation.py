"""Validation with the origin and by the client (RFC 9111 §4.3), and ranges (RFC 9110 §13.1.5, §14)."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from proxy.http.body import BodyStream
from proxy.http.message import Request, Response
from proxy.policy.model import PolicyOptions, Stored
from proxy.policy.reuse import discard_at
from proxy.policy.validation import (
    answer,
    answer_conditional,
    conditional_headers,
    freshen,
    head_agrees,
    if_range_holds,
    selects,
)
from tests.unit.policy.build import NOW, ask, ask_with, date, keep, reply, reply_with

LATER = NOW + 1000
VALIDATORS = {"ETag": '"a"', "Last_Modified": date(-500), "Cache_Control": "max-age=60"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"ETag": '"a"'}, {"If-None-Match": '"a"'}),
        ({"ETag": 'W/"a"'}, {"If-None-Match": 'W/"a"'}),
        ({"ETag": "a"}, {}),
        ({"Last_Modified": date(-500)}, {"If-Modified-Since": date(-500)}),
        ({"Last_Modified": "Sunday, 06-Nov-94 08:49:37 GMT"}, {"If-Modified-Since": "Sunday, 06-Nov-94 08:49:37 GMT"}),
        ({"Last_Modified": "yesterday"}, {}),
        (VALIDATORS, {"If-None-Match": '"a"', "If-Modified-Since": date(-500)}),
    ],
)
def test_stored_validators_make_the_condition(fields: dict[str, str], expected: dict[str, str]) -> None:
    assert dict(conditional_headers(keep(reply_with(fields)))) == expected


@pytest.mark.parametrize(
    ("stored", "answered", "expected"),
    [
        # A strong validator must be the same.
        ({"ETag": '"a"'}, {"ETag": '"a"'}, True),
        ({"ETag": '"a"'}, {"ETag": '"b"'}, False),
        ({"ETag": 'W/"a"'}, {"ETag": '"a"'}, False),
        ({}, {"ETag": '"a"'}, False),
        ({"Last_Modified": date(-500)}, {"ETag": '"a"'}, False),
        ({"ETag": '"a"', "Last_Modified": date(-500)}, {"ETag": '"b"', "Last_Modified": date(-500)}, False),
        # A weak one corresponds.
        ({"ETag": 'W/"a"'}, {"ETag": 'W/"a"'}, True),
        ({"ETag": '"a"'}, {"ETag": 'W/"a"'}, True),
        ({"ETag": 'W/"a"'}, {"ETag": 'W/"b"'}, False),
        ({"Last_Modified": date(-500)}, {"Last_Modified": date(-500)}, True),
        ({"Last_Modified": date(-500)}, {"Last_Modified": date(-400)}, False),
        ({"ETag": '"a"'}, {"Last_Modified": date(-400)}, False),
        ({"ETag": '"a"', "Last_Modified": date(-500)}, {"Last_Modified": date(-500)}, True),
        # No validator.
        ({}, {}, True),
        ({"ETag": '"a"'}, {}, True),
        ({"ETag": '"a"'}, {"ETag": "broken"}, True),
    ],
)
def test_which_stored_response_a_304_freshens(stored: dict[str, str], answered: dict[str, str], expected: bool) -> None:
    assert selects(keep(reply_with(stored)), reply_with(answered, 304)) is expected


def freshened(stored: Stored, fields: dict[str, str], options: PolicyOptions | None = None) -> Stored:
    return freshen(
        stored,
        reply_with(fields, 304),
        request_time=LATER - 2,
        response_time=LATER,
        options=options or PolicyOptions(),
    )


def test_304_renews_freshness() -> None:
    stored = keep(reply_with(VALIDATORS | {"Age": "30", "Date": date(-30)}))
    again = freshened(stored, {"Date": date(1000), "ETag": '"a"'})
    assert again.fresh_until == LATER + 60 - 2
    assert again.initial_age == 2
    assert again.date == LATER
    assert again.response_time == LATER


def test_age_of_a_304_counts() -> None:
    again = freshened(keep(reply_with(VALIDATORS)), {"Date": date(1000), "Age": "20"})
    assert again.initial_age == 22
    assert "Age" not in again.headers


def test_304_without_date_is_dated_on_arrival() -> None:
    again = freshened(keep(reply_with(VALIDATORS | {"Date": date(-30)})), {})
    assert again.headers["Date"] == date(1000)
    assert again.initial_age == 2


def test_fields_of_a_304_replace_stored_ones() -> None:
    stored = keep(reply(200, ("X", "1"), ("X", "2"), ("Y", "3"), ETag='"a"', Content_Type="text/plain"))
    new = reply(304, ("x", "4"), ("x", "5"), ("Z", "6"), Content_Type="text/html", Content_Location="/b")
    again = freshen(stored, new, request_time=LATER, response_time=LATER)
    assert again.headers.getall("X") == ["4", "5"]
    assert (again.headers["Y"], again.headers["Z"]) == ("3", "6")
    assert again.headers["Content-Type"] == "text/html"
    assert again.headers["Content-Location"] == "/b"


@pytest.mark.parametrize(
    "name",
    [
        "Content-Length", "Content-Encoding", "Content-Range", "Connection", "Keep-Alive", "Transfer-Encoding", "TE",
        "Upgrade", "Trailer", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Set-Cookie",
        "Proxy-Connection", "X-Hop", "X-Private", "X-Checked",
    ],
)  # fmt: skip
def test_field_that_a_304_does_not_update(name: str) -> None:
    stored = keep(reply(200, ("Content-Length", "10"), ("Content-Encoding", "gzip"), ETag='"a"'))
    new = reply(
        304,
        (name, "99" if name != "Connection" else "close"),
        ("Connection", "x-hop"),
        Cache_Control='private="x-private", no-cache="x-checked", max-age=5',
    )
    again = freshen(stored, new, request_time=LATER, response_time=LATER)
    assert again.headers.get(name) == stored.headers.get(name)


def test_cache_control_of_a_304_governs() -> None:
    again = freshened(keep(reply_with(VALIDATORS)), {"Cache_Control": "max-age=5, must-revalidate"})
    assert again.fresh_until == LATER + 5 - 2
    assert again.never_stale
    assert again.etag == keep(reply_with(VALIDATORS)).etag


@pytest.mark.parametrize("fields", [{"Cache_Control": "no-store"}, {"Cache_Control": "private"}, {"Vary": "*"}])
def test_304_that_forbids_storing_ends_the_stored_response(fields: dict[str, str]) -> None:
    again = freshened(keep(reply_with(VALIDATORS)), fields)
    assert again.must_validate
    assert discard_at(again) == LATER
    assert not conditional_headers(again)


def test_what_a_304_does_not_say_stays() -> None:
    part = keep(reply(206, ETag='"a"', Content_Range="bytes 0-9/100", Cache_Control="max-age=60"))
    again = freshened(part, {"ETag": '"a"'})
    assert (again.method, again.status, again.body_length, again.content_range) == ("GET", 206, 10, (0, 9, 100))
    assert again.reason_phrase == "Reason"


def test_validation_ends_a_soft_purge() -> None:
    assert not freshened(replace(keep(reply_with(VALIDATORS)), softened=True), {}).softened


FIELDS = st.dictionaries(
    st.sampled_from(
        ["ETag", "Date", "Age", "Vary", "X", "Cache_Control", "Expires", "Last_Modified", "Content_Length"]
    ),
    st.sampled_from(
        ['"a"', "5", "no-store", "max-age=9", 'private="x"', "*", "Accept", date(0), date(900), "junk", 'x="']
    ),
)


@given(FIELDS, FIELDS)
@settings(deadline=None, max_examples=500)
def test_freshening_twice_equals_once(first: dict[str, str], second: dict[str, str]) -> None:
    once = freshened(keep(reply_with(first)), second)
    twice = freshened(once, second)
    assert list(once.headers.items()) == list(twice.headers.items())
    assert replace(once, headers=twice.headers) == twice


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"ETag": '"a"'}, True),
        ({"ETag": '"b"'}, False),
        ({"ETag": 'W/"a"'}, False),
        ({"Last_Modified": date(-500)}, True),
        ({"Last_Modified": date(-499)}, False),
        ({"Content_Length": "10"}, True),
        ({"Content_Length": "11"}, False),
        ({"ETag": '"a"', "Content_Length": "11"}, False),
        ({"ETag": '"a"', "Last_Modified": date(-1)}, False),
        ({"ETag": '"a"', "Last_Modified": date(-500), "Content_Length": "10"}, True),
    ],
)
def test_head_agrees_with_a_stored_get(fields: dict[str, str], expected: bool) -> None:
    assert head_agrees(keep(reply_with(VALIDATORS)), reply_with(fields)) is expected


def test_head_tells_the_complete_length_of_a_part() -> None:
    part = keep(reply(206, ETag='"a"', Content_Range="bytes 0-9/100"))
    assert head_agrees(part, reply(Content_Length="100"))
    assert not head_agrees(part, reply(Content_Length="10"))
    assert head_agrees(keep(reply(206, ETag='"a"', Content_Range="bytes 0-9/*")), reply(Content_Length="7"))


# The client's conditions.


@pytest.mark.parametrize(
    ("own", "asked", "matches"),
    [
        ('"a"', '"a"', True),
        ('"a"', 'W/"a"', True),
        ('W/"a"', '"a"', True),
        ('W/"a"', 'W/"a"', True),
        ('"a"', '"b"', False),
        ('"a"', '"b", "a"', True),
        ('"a"', '"b" , W/"c","a"', True),
        ('"a"', '"b", "c"', False),
        ('"a"', "*", True),
        ("", "*", True),
        ("", '"a"', False),
        ('"a"', "a", False),
        ('"a"', '"a" "b"', False),
        ('"a,b"', '"a,b"', True),
        ('"a"', "", False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("since", [None, date(5000), date(-5000)])
def test_if_none_match(own: str, asked: str, matches: bool, method: str, since: str | None) -> None:
    stored = keep(reply_with(({"ETag": own} if own else {}) | {"Last_Modified": date(-500)}))
    # If-Modified-Since has no say beside it.
    request = ask_with({"If_None_Match": asked} | ({"If_Modified_Since": since} if since else {}))
    assert answer_conditional(replace(request, method=method), stored) == (304 if matches else None)


def test_if_none_match_on_several_lines() -> None:
    request = Request("GET", "/", headers=reply(200, ("If-None-Match", '"b"'), ("If-None-Match", '"a"')).headers)
    assert answer_conditional(request, keep(reply_with(VALIDATORS))) == 304


@pytest.mark.parametrize(
    ("fields", "since", "expected"),
    [
        ({"Last_Modified": date(-500)}, date(-500), 304),
        ({"Last_Modified": date(-500)}, date(-499), 304),
        ({"Last_Modified": date(-500)}, date(-501), None),
        ({"Last_Modified": date(-500)}, "yesterday", None),
        ({"Date": date(-100)}, date(-100), 304),
        ({"Date": date(-100)}, date(-101), None),
        ({}, date(0), 304),
        ({}, date(-1), None),
    ],
)
def test_if_modified_since(fields: dict[str, str], since: str, expected: int | None) -> None:
    assert answer_conditional(ask(If_Modified_Since=since), keep(reply_with(fields))) == expected


def test_moment_of_arrival_stands_in_for_a_missing_date() -> None:
    stored = replace(keep(reply()), date=None)
    assert answer_conditional(ask(If_Modified_Since=date(0)), stored) == 304


def test_if_modified_since_told_twice_is_ignored() -> None:
    headers = reply(200, ("If-Modified-Since", date(0)), ("If-Modified-Since", date(9))).headers
    assert answer_conditional(Request("GET", "/", headers=headers), keep(reply_with(VALIDATORS))) is None


@pytest.mark.parametrize("status", [300, 301, 302, 404, 410, 500])
def test_condition_is_ignored_where_the_answer_is_no_success(status: int) -> None:
    stored = keep(reply_with(VALIDATORS, status))
    assert answer_conditional(ask(If_None_Match="*", If_Modified_Since=date(9)), stored) is None


def test_condition_of_another_method_is_not_judged() -> None:
    assert answer_conditional(ask("POST", If_None_Match="*"), keep(reply_with(VALIDATORS))) is None


@pytest.mark.parametrize("name", ["If_Match", "If_Unmodified_Since"])
def test_conditions_for_the_origin_are_not_judged(name: str) -> None:
    response = full(keep(reply_with(VALIDATORS)))
    assert answer(ask_with({name: '"other"'}), keep(reply_with(VALIDATORS)), response) is response


def full(stored: Stored, body: bytes = b"0123456789") -> Response:
    headers = stored.headers.copy()
    headers["Age"] = "5"
    return Response(stored.status, type(stored.headers)(headers), body, stored.reason_phrase)


def test_304_carries_what_it_must_and_no_representation_metadata() -> None:
    more = {
        "Content_Type": "text/plain", "Content_Length": "10", "Content_Encoding": "gzip", "Content_Language": "en",
        "Expires": date(9), "Vary": "Accept", "Content_Location": "/x", "X_Other": "1",
    }  # fmt: skip
    stored = keep(reply_with(VALIDATORS | more))
    response = answer(ask(If_None_Match='"a"'), stored, full(stored))
    assert response.status == 304
    assert response.body == b""
    assert {name.lower() for name in response.headers} == {
        "etag", "cache-control", "expires", "vary", "content-location", "date", "age", "x-other",
    }  # fmt: skip


def test_304_without_etag_carries_last_modified() -> None:
    stored = keep(reply(Last_Modified=date(-500), Cache_Control="max-age=60"))
    response = answer(ask(If_Modified_Since=date(0)), stored, full(stored))
    assert response.status == 304
    assert response.headers["Last-Modified"] == date(-500)


@given(
    st.dictionaries(
        st.sampled_from(["Accept", "Range", "If_Match", "If_Range", "Cookie"]),
        st.sampled_from(["*", "bytes=0-1", '"a"']),
    )
)
@settings(deadline=None)
def test_request_without_a_condition_never_gets_304(fields: dict[str, str]) -> None:
    stored = keep(reply_with(VALIDATORS))
    assert answer(ask_with(fields), stored, full(stored)).status in {200, 206}


@pytest.mark.parametrize(
    ("fields", "if_range", "expected"),
    [
        (VALIDATORS, None, True),
        (VALIDATORS, '"a"', True),
        (VALIDATORS, '"b"', False),
        (VALIDATORS, 'W/"a"', False),
        (VALIDATORS | {"ETag": 'W/"a"'}, 'W/"a"', False),
        (VALIDATORS | {"ETag": 'W/"a"'}, '"a"', False),
        ({}, '"a"', False),
        (VALIDATORS, date(-500), True),
        (VALIDATORS, date(-499), False),
        (VALIDATORS, date(-501), False),
        ({"ETag": '"a"'}, date(-500), False),
        ({"Last_Modified": date(0)}, date(0), False),  # not a second older than Date: weak
        (VALIDATORS, "a", False),
        (VALIDATORS, "*", False),
        (VALIDATORS, '"a", "b"', False),
    ],
)
def test_if_range(fields: dict[str, str], if_range: str | None, expected: bool) -> None:
    stored = keep(reply_with(fields))
    request = ask_with({"Range": "bytes=0-1"} | ({"If_Range": if_range} if if_range is not None else {}))
    assert if_range_holds(request, stored) is expected
    assert answer(request, stored, full(stored)).status == (206 if expected else 200)


@pytest.mark.parametrize(
    ("method", "status", "value", "expected"),
    [
        ("GET", 200, "bytes=0-1", 206),
        ("GET", 200, "bytes=0-1,5-6", 206),
        ("GET", 200, "bytes=50-", 416),
        ("GET", 200, "lines=0-1", 200),
        ("GET", 200, "bytes=junk", 200),
        ("HEAD", 200, "bytes=0-1", 200),
        ("GET", 404, "bytes=0-1", 404),
        ("GET", 203, "bytes=0-1", 203),
    ],
)
def test_range(method: str, status: int, value: str, expected: int) -> None:
    stored = keep(reply_with(VALIDATORS, status))
    request = replace(ask(Range=value), method=method)
    assert answer(request, stored, full(stored)).status == expected


def test_range_comes_after_the_other_conditions() -> None:
    stored = keep(reply_with(VALIDATORS))
    assert answer(ask(Range="bytes=0-1", If_None_Match='"a"'), stored, full(stored)).status == 304
    assert answer(ask(Range="bytes=0-1", If_None_Match='"b"'), stored, full(stored)).status == 206


class Endless(BodyStream):
    @override
    async def __anext__(self) -> bytes:
        return b"x"

    @override
    async def aclose(self) -> None:
        pass


def test_body_that_still_arrives_serves_no_ranges() -> None:
    stored = keep(reply_with(VALIDATORS))
    response = Response(200, stored.headers, Endless())
    assert answer(ask(Range="bytes=0-1"), stored, response) is response


def test_part_of_a_stored_part() -> None:
    stored = keep(reply(206, ETag='"a"', Content_Range="bytes 100-109/1000", Cache_Control="max-age=9"))
    response = answer(ask(Range="bytes=102-103"), stored, full(stored))
    assert (response.status, response.body) == (206, b"23")
    assert response.headers["Content-Range"] == "bytes 102-103/1000"
