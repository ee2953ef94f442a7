"""Range requests: parsing, selecting, answering."""

import email.parser
import email.policy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.message import Response, make_headers
from proxy.http.ranges import (
    MAX_RANGES,
    ByteRange,
    ContentRange,
    RangeSpec,
    covers,
    format_content_range,
    parse_content_range,
    parse_range,
    partial_response,
    satisfiable,
)

BODY = bytes(range(256)) * 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", [(0, 0)]),
        ("bytes=0-499", [(0, 499)]),
        ("bytes=500-", [(500, None)]),
        ("bytes=-500", [(None, 500)]),
        ("bytes=-0", [(None, 0)]),
        ("BYTES=0-1", [(0, 1)]),
        (" bytes=0-1 ", [(0, 1)]),
        ("bytes= 0-1 , 5-6", [(0, 1), (5, 6)]),
        ("bytes=0-1,,5-", [(0, 1), (5, None)]),
        ("bytes=00-01", [(0, 1)]),
        ("bytes=0-" + "9" * 5000, [(0, 10**18)]),
        ("bytes=,0-1", [(0, 1)]),
    ],
)
def test_range_is_read(value: str, expected: list[tuple[int | None, int | None]]) -> None:
    assert parse_range(value) == tuple(RangeSpec(*pair) for pair in expected)


@pytest.mark.parametrize(
    "value",
    [
        None, "", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=1-0", "bytes=a-b", "bytes=0-1-2", "bytes=0",
        "lines=0-1", "bytes =0-1", "0-1", "bytes=0-1, x", "bytes=0-1, bytes=2-3", "bytes=--1", "bytes=+0-1",
        "bytes=0.5-1", "bytes=\u0660-\u0661", "bytes=0-1;x", "items=0-5",
        "bytes=" + ",".join(f"{place * 2}-{place * 2}" for place in range(MAX_RANGES + 1)),
    ],
)  # fmt: skip
def test_range_to_be_ignored(value: str | None) -> None:
    assert parse_range(value) is None


@pytest.mark.parametrize(
    ("value", "length", "expected"),
    [
        ("bytes=0-0", 10, [(0, 0)]),
        ("bytes=0-99", 10, [(0, 9)]),
        ("bytes=5-", 10, [(5, 9)]),
        ("bytes=9-", 10, [(9, 9)]),
        ("bytes=10-", 10, []),
        ("bytes=10-20", 10, []),
        ("bytes=-3", 10, [(7, 9)]),
        ("bytes=-10", 10, [(0, 9)]),
        ("bytes=-99", 10, [(0, 9)]),
        ("bytes=-0", 10, []),
        ("bytes=0-", 0, []),
        ("bytes=-5", 0, []),
        ("bytes=0-1, 20-30", 10, [(0, 1)]),
        ("bytes=0-1, 5-6", 10, [(0, 1), (5, 6)]),
        ("bytes=5-6, 0-1", 10, [(5, 6), (0, 1)]),  # the order asked for
        ("bytes=0-3, 2-5", 10, [(0, 5)]),  # overlapping
        ("bytes=0-3, 4-5", 10, [(0, 5)]),  # touching
        ("bytes=0-1, 8-9, 1-8", 10, [(0, 9)]),
        ("bytes=0-, 0-, 0-", 10, [(0, 9)]),
        ("bytes=8-9, 0-1, 7-8", 10, [(7, 9), (0, 1)]),
    ],
)
def test_bytes_asked_for(value: str, length: int, expected: list[tuple[int, int]]) -> None:
    specs = parse_range(value)
    assert specs is not None
    assert satisfiable(specs, length) == tuple(ByteRange(*pair) for pair in expected)


def _spec(one: int, other: int, kind: int) -> RangeSpec:
    first, last = sorted((one, other))
    return (RangeSpec(first, last), RangeSpec(first, None), RangeSpec(None, last))[kind]


SPECS = st.lists(st.builds(_spec, st.integers(0, 40), st.integers(0, 40), st.integers(0, 2)), min_size=1, max_size=8)


@given(SPECS, st.integers(0, 30))
@settings(deadline=None)
def test_joined_ranges_hold_exactly_the_bytes_asked_for(specs: list[RangeSpec], length: int) -> None:
    wanted = {
        place
        for spec in specs
        for place in range(length)
        if (
            length - (spec.last or 0) <= place
            if spec.first is None
            else spec.first <= place and (spec.last is None or place <= spec.last)
        )
    }
    found = [place for part in satisfiable(specs, length) for place in range(part.first, part.last + 1)]
    assert set(found) == wanted
    assert len(found) == len(wanted)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 0-0/1", (0, 0, 1)),
        ("bytes 0-499/1234", (0, 499, 1234)),
        ("Bytes 0-499/*", (0, 499, None)),
        (" bytes  5-9/10 ", (5, 9, 10)),
        (None, None),
        ("", None),
        ("bytes */10", None),
        ("bytes 5-4/10", None),
        ("bytes 0-10/10", None),
        ("bytes 0-1", None),
        ("lines 0-1/10", None),
        ("bytes=0-1/10", None),
        ("bytes 0-1/10, bytes 2-3/10", None),
        ("bytes -1/10", None),
    ],
)
def test_content_range_is_read(value: str | None, expected: ContentRange | None) -> None:
    assert parse_content_range(value) == expected


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.none() | st.integers(1, 10**12))
@settings(deadline=None)
def test_written_content_range_reads_as_itself(first: int, more: int, beyond: int | None) -> None:
    complete = None if beyond is None else first + more + beyond
    written = format_content_range(ByteRange(first, first + more), complete)
    assert parse_content_range(written) == (first, first + more, complete)


@given(st.text("bytes=0123456789-,/* \tx", max_size=40))
@settings(deadline=None)
def test_reading_never_raises(value: str) -> None:
    parse_range(value)
    parse_content_range(value)


def full(body: bytes = BODY) -> Response:
    fields = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("ETag", '"a"'), ("Vary", "Foo")]
    return Response(200, make_headers([*fields, ("Date", "Sun, 06 Nov 1994 08:49:37 GMT")]), body, "OK")


def ask(value: str, body: bytes = BODY, held: ContentRange | None = None) -> Response:
    specs = parse_range(value)
    assert specs is not None
    return partial_response(full(body), body, specs, held)


def test_single_range() -> None:
    response = ask("bytes=10-19")
    assert response.status == 206
    assert response.body == BODY[10:20]
    assert response.headers["Content-Range"] == "bytes 10-19/1024"
    assert response.headers["Content-Length"] == "10"
    # RFC 9110 §15.3.7: what a 200 would have said stays.
    assert response.headers["Content-Type"] == "text/plain"
    assert response.headers["ETag"] == '"a"'
    assert response.headers["Vary"] == "Foo"
    assert "Date" in response.headers


def test_unsatisfiable_range_is_416_with_the_length() -> None:
    response = ask("bytes=2000-")
    assert response.status == 416
    assert response.headers["Content-Range"] == "bytes */1024"
    assert response.headers["Content-Length"] == "0"
    assert response.body == b""
    assert "Content-Type" not in response.headers


def test_empty_body_is_sent_whole() -> None:
    assert ask("bytes=0-", b"").status == 200


def multipart(response: Response) -> list[tuple[dict[str, str], bytes]]:
    assert isinstance(response.body, bytes)
    head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + response.body)
    found: list[tuple[dict[str, str], bytes]] = []
    for part in message.iter_parts():
        raw = part.get_payload(decode=True)
        assert isinstance(raw, bytes)
        found.append(({name.lower(): str(value) for name, value in part.items()}, raw))
    return found


def test_several_ranges_are_multipart() -> None:
    body = b"The quick brown fox jumps over the lazy dog."
    response = ask("bytes=0-2, 10-14, -4", body)
    assert response.status == 206
    assert "Content-Range" not in response.headers
    assert response.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert response.headers["Content-Length"] == str(len(response.body if isinstance(response.body, bytes) else b""))
    parts = multipart(response)
    assert [content for _, content in parts] == [b"The", b"brown", b"dog."]
    assert [fields["content-range"] for fields, _ in parts] == ["bytes 0-2/44", "bytes 10-14/44", "bytes 40-43/44"]
    assert {fields["content-type"] for fields, _ in parts} == {"text/plain"}


def test_part_without_content_type_has_none() -> None:
    specs = parse_range("bytes=0-0,5-5")
    assert specs is not None
    response = partial_response(Response(200, make_headers(), BODY), BODY, specs, None)
    assert isinstance(response.body, bytes)
    assert b"Content-Type" not in response.body


def test_boundary_is_not_in_the_body() -> None:
    first = ask("bytes=0-0,5-5").headers["Content-Type"].partition("boundary=")[2]
    # The seed is the beginning of the body and its length: keep both, and hide the boundary further on.
    body = BODY[:100] + first.encode() + BODY[100 + len(first) :]
    second = ask("bytes=0-0,5-5", body).headers["Content-Type"].partition("boundary=")[2]
    assert len(body) == len(BODY)
    assert second != first
    assert second.encode() not in body


def test_ranges_that_join_to_one_are_a_single_part() -> None:
    response = ask("bytes=0-3,2-9")
    assert response.headers["Content-Range"] == "bytes 0-9/1024"


@given(SPECS, st.binary(min_size=1, max_size=30))
@settings(deadline=None)
def test_parts_are_the_bytes_they_say(specs: list[RangeSpec], body: bytes) -> None:
    response = partial_response(full(body), body, specs, None)
    if response.status == 206 and "Content-Range" in response.headers:
        place = parse_content_range(response.headers["Content-Range"])
        assert place is not None
        assert response.body == body[place[0] : place[1] + 1]
        assert place[2] == len(body)
    elif response.status == 206:
        assert response.headers["Content-Type"].startswith("multipart/byteranges")
    else:
        assert response.status == 416


@pytest.mark.parametrize(
    ("value", "held", "expected"),
    [
        ("bytes=0-99", None, True),
        ("bytes=100-199", (100, 199, 1000), True),
        ("bytes=150-160", (100, 199, 1000), True),
        ("bytes=99-199", (100, 199, 1000), False),
        ("bytes=100-200", (100, 199, 1000), False),
        ("bytes=100-", (100, 199, 1000), False),
        ("bytes=900-", (900, 999, 1000), True),
        ("bytes=-100", (900, 999, 1000), True),
        ("bytes=-101", (900, 999, 1000), False),
        ("bytes=950-5000", (900, 999, 1000), True),
        ("bytes=2000-", (900, 999, 1000), True),  # seen to be unsatisfiable
        ("bytes=100-110,120-130", (100, 199, 1000), True),
        ("bytes=100-110,220-230", (100, 199, 1000), False),
        ("bytes=100-199", (100, 199, None), True),
        ("bytes=100-", (100, 199, None), False),
        ("bytes=-5", (100, 199, None), False),
        ("bytes=100-200", (100, 199, None), False),
    ],
)
def test_part_covers_what_is_asked(value: str, held: ContentRange | None, expected: bool) -> None:
    specs = parse_range(value)
    assert specs is not None
    assert covers(specs, held) is expected


@pytest.mark.parametrize("complete", [1000, None])
def test_sub_range_of_a_part(complete: int | None) -> None:
    part = BODY[100:200]
    response = ask("bytes=150-159", part, (100, 199, complete))
    assert response.status == 206
    assert response.body == BODY[150:160]
    assert response.headers["Content-Range"] == f"bytes 150-159/{complete or '*'}"


def test_unsatisfiable_range_of_a_part() -> None:
    response = ask("bytes=5000-", BODY[100:200], (100, 199, 1000))
    assert response.status == 416
    assert response.headers["Content-Range"] == "bytes */1000"


def test_part_that_does_not_cover_is_sent_as_it_is() -> None:
    assert ask("bytes=0-50", BODY[100:200], (100, 199, 1000)).body == BODY[100:200]
