"""Vary: names, and the key that they make (RFC 9111 §4.1)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.message import make_headers
from proxy.policy.vary import variant_key, vary_names


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], ()), ([""], ()), ([","], ()), (["Accept"], ("accept",)), (["B, a"], ("a", "b")),
        (["a", "A, c"], ("a", "c")),
        (["*"], None), (["a, *"], None), (["*, a"], None), (["a", "*"], None), ([" * "], None), (["a,*"], None),
        (["a;b"], None), (["a b"], None), (["\u00e9"], None), (['"a"'], None), (["**"], ("**",)),
    ],
)  # fmt: skip
def test_names(lines: list[str], expected: tuple[str, ...] | None) -> None:
    assert vary_names(make_headers([("Vary", line) for line in lines])) == expected


def key(name: str, *lines: str) -> str:
    return variant_key((name.lower(),), make_headers([(name, line) for line in lines]))


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("Foo", ["1"], [" 1 "]),
        ("Foo", ["1", "2"], ["1, 2"]),
        ("foo", ["a"], ["a\t"]),
        ("Accept-Encoding", ["gzip, br"], ["br,gzip"]),
        ("Accept-Encoding", ["gzip, br"], ["BR ;q=1.0 , GZIP"]),
        ("Accept-Encoding", ["x-gzip"], ["gzip"]),
        ("Accept-Encoding", ["gzip;q=0.5, br"], ["br, gzip;q=0.500"]),
        ("Accept-Encoding", ["gzip", "br"], ["gzip, br"]),
        ("Accept-Encoding", ["gzip, gzip"], ["gzip"]),
        ("Accept-Encoding", ["gzip;;q=1;"], ["gzip"]),
        ("Accept-Language", ["en, de"], ["de, en"]),
        ("Accept-Language", ["en-GB;q=0.8,de"], ["de, EN-gb; q=0.8"]),
        ("Accept", ["text/html, application/json;q=0.9"], ["application/json; q=0.9,TEXT/HTML"]),
        ("Accept", ["a/b;x=1, c/d"], ["a/b;x=1,c/d"]),
        ("Accept-Charset", ["utf-8, x"], ["X, UTF-8"]),
        ("X-Requested-With", ["XMLHttpRequest"], ["xmlhttprequest"]),
        ("Accept", ["a/b" + ", c/d" * 100], ["c/d, a/b"]),
    ],
)
def test_requests_that_match(name: str, one: list[str], other: list[str]) -> None:
    assert key(name, *one) == key(name, *other)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("Foo", ["1"], ["2"]),
        ("Foo", ["a"], ["A"]),
        ("Foo", ["1,2"], ["2,1"]),
        ("Foo", [], [""]),
        ("Foo", [], ["1"]),
        ("Foo", ["1"], ["1", "1"]),
        ("Foo", ["a,b"], ["a, b"]),  # the grammar is not known: white space may mean something
        ("Foo", ['"a,b"'], ['"a, b"']),
        ("Accept-Encoding", ["gzip"], ["br"]),
        ("Accept-Encoding", ["gzip"], ["gzip;q=0"]),
        ("Accept-Encoding", ["gzip;q=0.5, br"], ["gzip, br;q=0.5"]),
        ("Accept-Encoding", ["gzip"], []),
        ("Accept-Encoding", [""], []),
        ("Accept-Language", ["en, de;q=0.9"], ["de, en;q=0.9"]),
        ("Accept", ['a/b;x="C"'], ['a/b;x="c"']),
        ("Accept", ["a/b;x=C"], ["a/b;x=c"]),
        ("Cookie", ["a=b; c=d"], ["c=d; a=b"]),
        ("User-Agent", ["Mozilla/5.0 (a, b)"], ["Mozilla/5.0 (a,b)"]),
        ("Cookie", ["a=1"], ["A=1"]),
    ],
)
def test_requests_that_do_not_match(name: str, one: list[str], other: list[str]) -> None:
    assert key(name, *one) != key(name, *other)


def test_fields_that_do_not_select_have_no_say() -> None:
    one = variant_key(("a",), make_headers([("A", "1"), ("B", "2")]))
    assert one == variant_key(("a",), make_headers([("A", "1"), ("C", "3")]))
    assert variant_key((), make_headers([("A", "1")])) == ""


VALUES = st.none() | st.text("ab,=-:\t ", max_size=6)


@given(VALUES, VALUES, VALUES, VALUES)
@settings(deadline=None, max_examples=500)
def test_no_value_poses_as_another_field(a: str | None, b: str | None, c: str | None, d: str | None) -> None:
    def both(first: str | None, second: str | None) -> str:
        fields = [(name, value) for name, value in (("a", first), ("b", second)) if value is not None]
        return variant_key(("a", "b"), make_headers(fields))

    def plain(value: str | None) -> str | None:
        return None if value is None else value.strip(" \t")

    assert (both(a, b) == both(c, d)) is ((plain(a), plain(b)) == (plain(c), plain(d)))


MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(["gzip", "br", "*", "identity", "zstd"]), st.sampled_from(["", ";q=0", ";q=0.5", ";q=1"])
    ),
    max_size=5,
    unique_by=lambda member: member[0],
)


@given(MEMBERS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_of_weighted_members_does_not_matter(members: list[tuple[str, str]], random: object) -> None:
    texts = [coding + weight for coding, weight in members]
    assert key("Accept-Encoding", ", ".join(texts)) == key("Accept-Encoding", ",".join(reversed(texts)))


@given(st.sampled_from(["accept", "accept-language", "accept-encoding", "foo"]), st.text(max_size=300))
@settings(deadline=None)
def test_making_a_key_never_raises(name: str, value: str) -> None:
    variant_key((name,), make_headers([(name, value)]))
