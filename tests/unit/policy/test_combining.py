"""Parts of one representation as one (RFC 9111 §3.4)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.message import Response
from proxy.policy.combining import combine
from proxy.policy.model import Hit, Stored
from proxy.policy.reuse import decide
from tests.unit.policy.build import NOW, ask, keep, reply

WHOLE = bytes(range(100))


def part(first: int, last: int, complete: int | str = 100, etag: str = '"a"', status: int = 206) -> Response:
    return reply(
        status, Content_Range=f"bytes {first}-{last}/{complete}", ETag=etag, Cache_Control="max-age=60", Date="junk"
    )


def join(held: Response, body: bytes, new: Response, more: bytes) -> tuple[Stored, bytes] | None:
    stored = keep(held, body_length=len(body))
    return combine(stored, body, new, more, request_time=NOW + 100, response_time=NOW + 100)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.booleans())
@settings(deadline=None, max_examples=300)
def test_parts_join_to_the_bytes_they_are_of(a: int, b: int, c: int, d: int, known: bool) -> None:
    (first, last), (start, end) = sorted((a, b)), sorted((c, d))
    length: int | str = 100 if known else "*"
    found = join(part(first, last, length), WHOLE[first : last + 1], part(start, end, length), WHOLE[start : end + 1])
    if start > last + 1 or first > end + 1:
        assert found is None
        return
    assert found is not None
    stored, body = found
    low, high = min(first, start), max(last, end)
    assert body == WHOLE[low : high + 1]
    assert stored.body_length == len(body)
    assert stored.headers["Content-Length"] == str(len(body))
    if known and (low, high) == (0, 99):
        assert (stored.status, stored.content_range) == (200, None)
        assert "Content-Range" not in stored.headers
        assert isinstance(decide(ask(), stored, NOW + 100), Hit)
    else:
        assert stored.status == 206
        assert stored.content_range == (low, high, 100 if known else None)
        assert stored.headers["Content-Range"] == f"bytes {low}-{high}/{length}"


def test_combined_response_is_as_fresh_as_the_new_part() -> None:
    found = join(part(0, 9), WHOLE[:10], part(10, 19), WHOLE[10:20])
    assert found is not None
    assert found[0].fresh_until == NOW + 160


def test_length_that_one_part_knows_is_known() -> None:
    found = join(part(0, 49, "*"), WHOLE[:50], part(50, 99), WHOLE[50:])
    assert found is not None
    assert found[0].status == 200


@pytest.mark.parametrize(
    ("held", "body", "new", "more"),
    [
        (part(0, 9), WHOLE[:10], part(10, 19, etag='"b"'), WHOLE[10:20]),
        (part(0, 9, etag='W/"a"'), WHOLE[:10], part(10, 19, etag='W/"a"'), WHOLE[10:20]),
        (part(0, 9, etag="a"), WHOLE[:10], part(10, 19, etag="a"), WHOLE[10:20]),
        (part(0, 9), WHOLE[:10], part(10, 19, 200), WHOLE[10:20]),
        (part(0, 9, 10), WHOLE[:10], part(10, 19, "*"), WHOLE[10:20]),
        (part(0, 9), WHOLE[:10], part(11, 19), WHOLE[11:20]),
        (part(11, 19), WHOLE[11:20], part(0, 9), WHOLE[:10]),
        (part(0, 9), WHOLE[:9], part(10, 19), WHOLE[10:20]),
        (part(0, 9), WHOLE[:10], part(10, 19), WHOLE[10:19]),
        (part(0, 9), WHOLE[:10], part(10, 19, status=200), WHOLE[10:20]),
        (part(0, 9), WHOLE[:10], reply(206, ETag='"a"'), WHOLE[10:20]),
        (reply(200, ETag='"a"'), WHOLE, part(10, 19), WHOLE[10:20]),
    ],
)
def test_what_does_not_belong_together_is_not_combined(held: Response, body: bytes, new: Response, more: bytes) -> None:
    assert join(held, body, new, more) is None
