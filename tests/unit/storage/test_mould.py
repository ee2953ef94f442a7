from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from proxy.http.dates import format_date
from proxy.http.message import make_headers
from proxy.policy.recurring import Times
from proxy.storage.base import Entry
from proxy.storage.mould import Mould, mould_of
from proxy.storage.packed import address, unpack, url_of, url_within
from tests.support.records import NOW, entries, entry, key, same, times


def dated(made: Entry) -> Entry:
    """`made`, with a Date that says what is known of it."""
    lines = [line for line in made.stored.headers.items() if line[0].lower() != "date"]
    return replace(
        made, stored=replace(made.stored, date=NOW, headers=make_headers([*lines, ("Date", format_date(NOW))]))
    )


@given(entries, st.tuples(*[times] * 5), st.binary(max_size=50))
@settings(deadline=None)
def test_what_a_mould_casts_is_like_its_model_but_for_times_url_and_body(
    one: Entry, moments: Times, body: bytes
) -> None:
    one = dated(one)
    mould = mould_of(one)
    event("there is a mould" if mould is not None else "there is none")
    if mould is None:
        return
    url = "http://example.test/cast"
    discard_at, request_time, response_time, initial_age, fresh_until = moments
    windows = (
        moment - one.stored.fresh_until
        for moment in (one.stored.stale_while_revalidate_until, one.stored.stale_if_error_until)
    )
    while_revalidate, if_error = ((window + 0.5) // 1 for window in windows)
    expected = replace(
        one,
        url=url,
        body=body,
        discard_at=discard_at,
        forms={},
        stored=replace(
            one.stored,
            request_time=request_time,
            response_time=response_time,
            initial_age=initial_age,
            fresh_until=fresh_until,
            stale_while_revalidate_until=fresh_until + while_revalidate,
            stale_if_error_until=fresh_until + if_error,
        ),
    )
    for primary in (f"GET {url}", "GET http://example.test/"):
        packed = mould.cast(moments, url_within(primary, url), body)
        assert same(unpack(packed, primary), expected)
        assert packed.discard_at == discard_at
        where, tags = address(packed)
        assert (url_of(where, primary), tags) == (url, one.tags)


def model(lines: dict[str, str] | None = None) -> Entry:
    """An entry whose fields say what is known of it."""
    made = entry(body=b"x" * 10)
    fields = {"Content-Type": "text/plain", "Content-Length": "10", "ETag": '"v1"', **(lines or {})}
    return dated(replace(made, stored=replace(made.stored, headers=make_headers(fields.items()))))


def changed(made: Entry, *values: tuple[str, str], body: bytes = b"x" * 10) -> Mould | None:
    mould = mould_of(made)
    assert mould is not None
    return mould.changed(values, purge_id=7, body_bytes=len(body), now=NOW)


MOMENTS: Times = NOW + 100, NOW + 1, NOW + 2, 0.5, NOW + 61.5


def test_other_values_are_read_and_written() -> None:
    mould = changed(model(), ("Date", format_date(NOW + 5)), ("ETag", '"v2"'), ("Content-Length", "3"), body=b"abc")
    assert mould is not None
    assert mould.date == NOW + 5
    made = unpack(mould.cast(MOMENTS, 4, b"abc"), key().primary)
    assert made.purge_id == 7
    assert made.stored.body_length == 3
    assert made.stored.date == NOW + 5
    assert made.stored.etag is not None
    assert made.stored.etag.opaque == "v2"
    assert made.stored.headers["ETag"] == '"v2"'
    assert made.stored.headers["Date"] == format_date(NOW + 5)


def test_what_another_shape_would_be_is_not_cast() -> None:
    assert changed(model(), ("Content-Type", "text/plain")) is not None
    for name, text in (
        ("Content-Type", "text/html"),  # the same in all of them
        ("X-Strange", "x"),  # not there
        ("ETag", 'W/"v1"'),
        ("ETag", "v1"),
        ("Date", "never"),
        ("Date", " " + format_date(NOW)),  # not as it would be written
        ("Content-Length", "11"),
        ("Content-Length", "010"),
        ("Content-Length", "ten"),
    ):
        assert changed(model(), (name, text)) is None, (name, text)


def test_a_value_that_says_nothing_is_no_model_for_one_that_does() -> None:
    made = model({"Last-Modified": "never"})
    assert changed(made, ("ETag", '"v2"')) is not None
    assert changed(made, ("Last-Modified", format_date(NOW))) is None


def test_what_has_no_date_or_odd_moments_leaves_no_mould() -> None:
    assert mould_of(entry()) is None
    made = model()
    assert mould_of(made) is not None
    assert mould_of(replace(made, stored=replace(made.stored, date=NOW + 1))) is None
    odd = replace(made.stored, stale_if_error_until=made.stored.fresh_until + 0.25)
    assert mould_of(replace(made, stored=odd)) is None
