"""What adding does, and which changes make something shared that was not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from plugins.cache_control.fields import add_members, is_caching_field, mistake_in, says_nothing, weakens
from proxy.http.cache_control import response_directives
from proxy.http.headers import split_list
from proxy.http.message import make_headers


@pytest.mark.parametrize(
    ("name", "present", "added", "result"),
    [
        ("Vary", ["Origin"], "accept, ORIGIN", "Origin, accept"),
        ("Vary", [], "Accept", "Accept"),
        ("Cache-Control", ["max-age=60"], "MAX-AGE=5, public", "max-age=60, public"),
        ("Cache-Control", ["no-cache", "max-age=1"], "stale-if-error=60", "no-cache, max-age=1, stale-if-error=60"),
        ("Cache-Control", ['private="a, b"'], "max-age=1", 'private="a, b", max-age=1'),
        ("CDN-Cache-Control", ["max-age=60"], "max-age=5", "max-age=60"),
        ("Surrogate-Key", ["a  b", "c"], "b d", "a b c d"),
        ("Cache-Tag", ["a,b", "C"], "c, a", "a, b, C, c"),
    ],
)
def test_adding_adds_what_is_not_there(name: str, present: list[str], added: str, result: str) -> None:
    headers = CIMultiDict((name, line) for line in present)
    add_members(headers, name, added)
    assert headers.getall(name) == [result]


@pytest.mark.parametrize(
    ("before", "after", "weaker"),
    [
        ({"Cache-Control": "private"}, {"Cache-Control": "public, max-age=5"}, True),
        ({"Cache-Control": "private"}, {}, True),
        ({"Cache-Control": "no-store"}, {"Cache-Control": "private"}, True),
        ({"Cache-Control": 'private="x"'}, {"Cache-Control": "max-age=5"}, True),
        ({"Cache-Control": 'private="x"'}, {"Cache-Control": 'max-age=5, private="y, X"'}, False),
        ({"Cache-Control": 'private="x"'}, {"Cache-Control": "private"}, False),
        ({"Cache-Control": "private"}, {"Cache-Control": "private, max-age=5"}, False),
        ({"Cache-Control": "private"}, {"Cache-Control": "no-store"}, False),
        ({"Cache-Control": "no-store"}, {"Cache-Control": "no-store, max-age=9"}, False),
        ({"Cache-Control": "no-cache"}, {"Cache-Control": "max-age=9"}, False),
        ({}, {"Cache-Control": "public, max-age=9"}, False),
        ({"Cache-Control": "private"}, {"Cache-Control": "private", "CDN-Cache-Control": "max-age=9"}, True),
        ({"Cache-Control": "private"}, {"Cache-Control": "private", "CDN-Cache-Control": "private"}, False),
        ({"Cache-Control": "private"}, {"Cache-Control": "private", "CDN-Cache-Control": "(bad"}, False),
        ({}, {"Cache-Control": "private", "CDN-Cache-Control": "max-age=9"}, False),
        ({"CDN-Cache-Control": "no-store"}, {"Cache-Control": "max-age=9"}, True),
        ({"CDN-Cache-Control": "no-store", "Cache-Control": "no-store"}, {"Cache-Control": "no-store"}, False),
        ({"CDN-Cache-Control": "max-age=9", "Cache-Control": "private"}, {"CDN-Cache-Control": "max-age=9"}, True),
    ],
)
def test_a_restriction_lost_is_a_weakening(before: dict[str, str], after: dict[str, str], weaker: bool) -> None:
    assert weakens(make_headers(before.items()), CIMultiDict(after)) is weaker


@pytest.mark.parametrize(
    ("after", "with_cookie", "with_credentials"),
    [
        ({"Cache-Control": "max-age=9"}, False, False),
        ({"Cache-Control": "public"}, True, True),
        ({"Cache-Control": "s-maxage=9"}, True, True),
        ({"Cache-Control": "max-age=9, must-revalidate"}, False, True),
        ({"CDN-Cache-Control": "max-age=9"}, True, True),
        ({"Cache-Control": "private, max-age=9, must-revalidate"}, False, False),
        ({"Cache-Control": "no-store, public"}, False, False),
        ({"Expires": "Thu, 01 Jan 2099 00:00:00 GMT"}, False, False),
    ],
)
def test_a_personal_response_is_not_made_shared(
    after: dict[str, str], with_cookie: bool, with_credentials: bool
) -> None:
    origin = make_headers()
    assert weakens(origin, CIMultiDict(after)) is False
    assert weakens(origin, CIMultiDict(after), cookie=True) is with_cookie
    assert weakens(origin, CIMultiDict(after), credentials=True) is with_credentials
    assert weakens(make_headers(after.items()), CIMultiDict(after), cookie=True, credentials=True) is False


directives = st.lists(
    st.sampled_from(["private", "no-store", "public", "max-age=60", "s-maxage=5", "no-cache", 'private="a"', "x=y"]),
    max_size=4,
).map(", ".join)


@given(directives, directives)
@settings(deadline=None)
def test_adding_never_weakens(present: str, added: str) -> None:
    headers = CIMultiDict({"Cache-Control": present})
    add_members(headers, "Cache-Control", added)
    assert weakens(make_headers([("Cache-Control", present)]), headers) is False
    members = [member.partition("=")[0] for member in split_list(headers["Cache-Control"])]
    assert {member.partition("=")[0] for member in split_list(added)} <= set(members)


@given(directives, directives)
@settings(deadline=None)
def test_what_is_not_weaker_keeps_every_restriction(before: str, after: str) -> None:
    headers = CIMultiDict({"Cache-Control": after})
    if not weakens(make_headers([("Cache-Control", before)]), headers):
        old = response_directives(make_headers([("Cache-Control", before)]))
        new = response_directives(make_headers([("Cache-Control", after)]))
        assert new.no_store or (not old.no_store and (new.private or not old.private))


@pytest.mark.parametrize(
    ("name", "fit"),
    [
        ("cache-control", True),
        ("CDN-Cache-Control", True),
        ("Fly-Cache-Control", True),
        ("Surrogate-Control", True),
        ("Surrogate-Key", True),
        ("Cache-Tag", True),
        ("Vary", True),
        ("Expires", True),
        ("Set-Cookie", False),
        ("Content-Type", False),
        ("X-Cache-Controls", False),
    ],
)
def test_only_caching_fields_are_fields_for_rules(name: str, fit: bool) -> None:
    assert is_caching_field(name) is fit


def test_an_origin_that_says_how_long_says_something() -> None:
    assert says_nothing(make_headers([("Vary", "Origin"), ("Cache-Tag", "a"), ("ETag", '"x"')]))
    for name in ("Cache-Control", "expires", "CDN-Cache-Control", "Pragma", "Surrogate-Control"):
        assert not says_nothing(make_headers([(name, "x")]))


@pytest.mark.parametrize(
    ("name", "value", "mistake"),
    [
        ("Cache-Control", "public, max-age=60", None),
        ("Cache-Control", "max-age: 60", "max-age"),
        ("Cache-Control", "max-age=ten", "max-age"),
        ("Cache-Control", "", "is empty"),
        ("CDN-Cache-Control", "max-age=60", None),
        ("CDN-Cache-Control", "max-age=", "no dictionary"),
        ("CDN-Cache-Control", "max-age=1.5", "max-age"),
        ("CDN-Cache-Control", "", "no dictionary"),
        ("Vary", "Origin", None),
        ("Vary", " ", "is empty"),
    ],
)
def test_values_that_caches_would_not_understand_are_found(name: str, value: str, mistake: str | None) -> None:
    found = mistake_in(name, value)
    assert found is None if mistake is None else found is not None and mistake in found
