"""Fields as such: what ends at this hop, lists, Via."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.headers import (
    HOP_BY_HOP,
    accepts_trailers,
    combined,
    connection_options,
    end_to_end,
    split_list,
    via,
)
from proxy.http.message import make_headers

TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789-", min_size=1, max_size=12)


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
def test_hop_by_hop_field_ends_here(name: str, spell: Callable[[str], str]) -> None:
    headers = make_headers([(spell(name), "x"), ("X-Kept", "1")])
    assert list(end_to_end(headers).items()) == [("X-Kept", "1")]


@pytest.mark.parametrize("option", ["X-Secret", "x-secret", " X-SECRET ", "close, x-secret", "x-secret,", ",x-secret"])
def test_field_named_by_connection_ends_here(option: str) -> None:
    headers = make_headers([("Connection", option), ("X-Secret", "1"), ("X-Secret", "2"), ("X-Kept", "1")])
    assert list(end_to_end(headers)) == ["X-Kept"]


def test_connection_on_several_lines_names_fields() -> None:
    headers = make_headers([("Connection", "a"), ("A", "1"), ("Connection", "b"), ("B", "2"), ("C", "3")])
    assert list(end_to_end(headers)) == ["C"]


def test_headers_without_hop_by_hop_fields_are_not_copied() -> None:
    headers = make_headers([("Accept", "*/*"), ("Cookie", "a=b")])
    assert end_to_end(headers) is headers


@given(st.lists(st.tuples(TOKENS, TOKENS), max_size=8), st.lists(TOKENS, max_size=3))
@settings(deadline=None)
def test_stripping_twice_equals_once_and_leaves_nothing_named(pairs: list[tuple[str, str]], named: list[str]) -> None:
    headers = make_headers([*pairs, ("Connection", ", ".join(named))])
    once = end_to_end(headers)
    assert list(end_to_end(once).items()) == list(once.items())
    assert not {name.lower() for name in once} & ({name.lower() for name in named} | HOP_BY_HOP)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [([], None), (["a"], "a"), ([""], ""), (["a", "b"], "a, b"), (["a, b", "c"], "a, b, c"), (["", "b"], ", b")],
)
def test_lines_are_combined_in_order(lines: list[str], expected: str | None) -> None:
    assert combined(make_headers([("Foo", line) for line in lines]), "foo") == expected


@pytest.mark.parametrize(
    ("value", "members"),
    [
        ("", []),
        (",", []),
        (" , ,\t", []),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        (" a ,\tb ", ["a", "b"]),
        ("a,,b,", ["a", "b"]),
        ('"a,b"', ['"a,b"']),
        ('"a,b",c', ['"a,b"', "c"]),
        ('x="a,b";q=1, c', ['x="a,b";q=1', "c"]),
        (r'"a\",b",c', [r'"a\",b"', "c"]),
        (r'"a\\",b', [r'"a\\"', "b"]),
        ('"a,b', ['"a,b']),
        ('"', ['"']),
        ('"\\', ['"\\']),
        ('a b, "c"', ["a b", '"c"']),
    ],
)
def test_list_is_split_outside_quoted_strings(value: str, members: list[str]) -> None:
    assert split_list(value) == members


@given(st.text('a," \\\t', max_size=30))
@settings(deadline=None)
def test_splitting_never_raises_and_loses_no_character_but_commas_and_space(value: str) -> None:
    members = split_list(value)
    assert all(members)
    assert all(member == member.strip(" \t") for member in members)
    kept = [char for char in value if char not in ", \t"]
    assert [char for char in "".join(members) if char not in ", \t"] == kept


@pytest.mark.parametrize(
    ("lines", "expected"),
    [([], set()), (["close"], {"close"}), (["Close, TE"], {"close", "te"}), (["a", "B"], {"a", "b"}), ([""], set())],
)
def test_connection_options_are_lower_case(lines: list[str], expected: set[str]) -> None:
    assert connection_options(make_headers([("Connection", line) for line in lines])) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], False),
        (["trailers"], True),
        (["Trailers"], True),
        (["gzip;q=0.5, trailers"], True),
        (["gzip", "trailers"], True),
        (["trailers-not"], False),
        (["gzip"], False),
        ([""], False),
    ],
)
def test_te_trailers_is_seen(lines: list[str], expected: bool) -> None:
    assert accepts_trailers(make_headers([("TE", line) for line in lines])) is expected


@pytest.mark.parametrize(
    ("before", "version", "expected"),
    [
        ([], (1, 1), "1.1 sidecache"),
        ([], (1, 0), "1.0 sidecache"),
        (["1.0 fred"], (1, 1), "1.0 fred, 1.1 sidecache"),
        (["1.0 fred", "1.1 p.example.net (x, y)"], (1, 1), "1.0 fred, 1.1 p.example.net (x, y), 1.1 sidecache"),
        ([""], (1, 1), "1.1 sidecache"),
    ],
)
def test_via_is_appended(before: list[str], version: tuple[int, int], expected: str) -> None:
    assert via(make_headers([("Via", line) for line in before]), version, "sidecache") == expected
