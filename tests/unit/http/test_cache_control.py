"""Cache-Control, Pragma and targeted fields: never an exception, always the cautious reading."""

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.cache_control import (
    DELTA_MAX,
    NO_REQUEST_DIRECTIVES,
    NO_RESPONSE_DIRECTIVES,
    SYNTAX,
    RequestDirectives,
    ResponseDirectives,
    request_directives,
    response_directives,
    targeted_directives,
)
from proxy.http.message import make_headers


def read(*lines: str) -> ResponseDirectives:
    return response_directives(make_headers([("Cache-Control", line) for line in lines]))


def read_request(*lines: str, pragma: str | None = None) -> RequestDirectives:
    fields = [("Cache-Control", line) for line in lines]
    return request_directives(make_headers([*fields, *([("Pragma", pragma)] if pragma is not None else [])]))


def read_targeted(*lines: str) -> ResponseDirectives | None:
    return targeted_directives(make_headers([("CDN-Cache-Control", line) for line in lines]), "CDN-Cache-Control")


SECONDS = ("max-age", "s-maxage", "stale-while-revalidate", "stale-if-error")
FLAGS = (
    "no-store", "no-cache", "private", "public", "must-revalidate", "proxy-revalidate", "must-understand",
    "no-transform", "immutable",
)  # fmt: skip
GOOD = {"0": 0, "1": 1, "60": 60, "007": 7, str(2**31): DELTA_MAX, str(2**31 + 1): DELTA_MAX, "9" * 400: DELTA_MAX}
BAD = (
    "",
    "-1",
    "+1",
    "1.5",
    "1e3",
    "0x10",
    "abc",
    "60s",
    "'60'",
    "6 0",
    "60;x",
    "\u0663",
    "\xb2",
    " 60",
    "60,5x"[:2] + "x",
)


def attribute(name: str) -> str:
    return name.replace("-", "_")


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize(("text", "value"), GOOD.items())
@pytest.mark.parametrize("form", ["{}={}", '{}="{}"', " {}={} ", "foo, {}={}, bar", "{}={},", 'x="a, b",{}={}'])
def test_seconds_are_read(name: str, text: str, value: int, form: str) -> None:
    for spelt in (name, name.upper(), name.title()):
        found = read(form.format(spelt, text))
        assert getattr(found, attribute(name)) == value
        assert not found.malformed


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("form", ["{}={}", '{}="{}"', "{}={}, public"])
def test_seconds_that_cannot_be_read_are_zero(name: str, text: str, form: str) -> None:
    found = read(form.format(name, text))
    assert getattr(found, attribute(name)) == 0
    assert name in found.malformed


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("text", ["{}", "{} =60", "{}= 60", "{}=60 x", '{}="60', '{}=60"', '{}="6"0', "{}==60"])
def test_seconds_in_broken_syntax_are_never_a_lifetime(name: str, text: str) -> None:
    assert not getattr(read(text.format(name)), attribute(name))


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize(
    "lines", [("{0}=60, {0}=60",), ("{0}=60", "{0}=60"), ('{0}=60, {0}="60"',), ("{0}=60", "x", "{0}=060")]
)
def test_equal_duplicates_count_once(name: str, lines: tuple[str, ...]) -> None:
    found = read(*(line.format(name) for line in lines))
    assert getattr(found, attribute(name)) == 60
    assert not found.malformed


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize(
    "lines", [("{0}=60, {0}=61",), ("{0}=1", "{0}=3600"), ("{0}=60, {0}",), ("{0}=60", "{0}=x"), ("{0}=3600, {0}=1",)]
)
def test_conflicting_duplicates_are_stale(name: str, lines: tuple[str, ...]) -> None:
    found = read(*(line.format(name) for line in lines))
    assert getattr(found, attribute(name)) == 0
    assert name in found.malformed


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize(
    "form", ["{}", " {} ", "{},", ",{}", "max-age=5, {}", "{}, max-age=5", 'x="y,z", {}', "{0}, {0}", "{};q=1, {}"]
)
def test_flag_is_read_in_any_case(name: str, form: str) -> None:
    for spelt in (name, name.upper(), name.title()):
        assert getattr(read(form.format(spelt, spelt)), attribute(name)) is True


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("text", ["", "x{}", "{}x", 'foo="{}"', 'foo="a, {}, b"', 'foo="a\\", {}"', "foo={}", "x-{}"])
def test_flag_that_is_not_there_is_not_read(name: str, text: str) -> None:
    assert getattr(read(text.format(name)), attribute(name)) is False


def test_each_flag_sets_itself_alone() -> None:
    nothing = asdict(NO_RESPONSE_DIRECTIVES)
    for name in FLAGS:
        assert asdict(read(name)) == nothing | {attribute(name): True}
    for name in SECONDS:
        assert asdict(read(f"{name}=5")) == nothing | {attribute(name): 5}


@pytest.mark.parametrize("name", ["no-cache", "private"])
@pytest.mark.parametrize(
    ("text", "whole", "fields"),
    [
        ("{}", True, ()),
        ('{}="set-cookie"', False, ("set-cookie",)),
        ('{}="Set-Cookie"', False, ("set-cookie",)),
        ("{}=set-cookie", False, ("set-cookie",)),
        ('{}="a, B ,c"', False, ("a", "b", "c")),
        ('{}="a,,b,"', False, ("a", "b")),
        ('{0}="a", {0}="b, a"', False, ("a", "b")),
        ('{0}="a", {0}', True, ()),
        ('{0}, {0}="a"', True, ()),
        ('{}=""', True, ()),
        ("{}=", True, ()),
        ('{}=","', True, ()),
        ('{}="a b"', True, ()),
        ('{}="a, b c"', True, ()),
        ('{}="a\\"b"', True, ()),
        ('{}="a', True, ()),
        ('{}="a, max-age=60', True, ()),
    ],
)
def test_qualified_form(name: str, text: str, whole: bool, fields: tuple[str, ...]) -> None:
    found = read(text.format(name))
    assert getattr(found, attribute(name)) is whole
    assert getattr(found, attribute(name) + "_fields") == fields


@pytest.mark.parametrize("restriction", ["no-store", "no-cache", "private", "must-revalidate", "proxy-revalidate"])
def test_after_broken_quotes_restrictions_count_and_permissions_do_not(restriction: str) -> None:
    found = read(f'foo="bar, {restriction}, max-age=3600, public, immutable')
    assert getattr(found, attribute(restriction)) is True
    assert found.max_age is None
    assert not found.public
    assert not found.immutable
    assert SYNTAX in found.malformed


def test_what_stands_before_broken_quotes_counts() -> None:
    assert read('max-age=60, foo="bar').max_age == 60


@pytest.mark.parametrize("name", ["no-store", "no-transform", "must-revalidate", "proxy-revalidate"])
def test_restriction_with_an_argument_restricts(name: str) -> None:
    assert getattr(read(f"{name}=1"), attribute(name)) is True


@pytest.mark.parametrize("name", ["public", "immutable", "must-understand"])
@pytest.mark.parametrize("text", ["{}=1", '{}="x"', "{}=", "{} =x", '{}=""'])
def test_permission_with_an_argument_permits_nothing(name: str, text: str) -> None:
    found = read(text.format(name))
    assert getattr(found, attribute(name)) is False
    assert name in found.malformed


def test_absent_field_has_no_directives() -> None:
    assert response_directives(make_headers()) is NO_RESPONSE_DIRECTIVES
    assert request_directives(make_headers()) is NO_REQUEST_DIRECTIVES


def test_lines_are_one_field() -> None:
    found = read("max-age=60", "private", "s-maxage=5")
    assert (found.max_age, found.private, found.s_maxage) == (60, True, 5)


def test_long_field_reads_the_same_as_a_short_one() -> None:
    padding = ", ".join(f"x-{number}" for number in range(100))
    assert read(f"{padding}, max-age=60, no-store") == read("max-age=60, no-store")


ALPHABET = 'max-age=60,no-store "\\;\t*?:private'


@given(st.lists(st.text(ALPHABET, max_size=40) | st.text(max_size=20), max_size=3))
@settings(deadline=None, max_examples=300)
def test_reading_never_raises(lines: list[str]) -> None:
    for found in (read(*lines), read_targeted(*lines)):
        if found is not None:
            for name in SECONDS:
                value = getattr(found, attribute(name))
                assert value is None or 0 <= value <= DELTA_MAX
            assert not (found.no_cache and found.no_cache_fields)
            assert not (found.private and found.private_fields)
    request = read_request(*lines)
    for limit in (request.max_age, request.min_fresh, request.max_stale, request.stale_if_error):
        assert limit is None or 0 <= limit <= DELTA_MAX


@given(st.text(ALPHABET, max_size=40))
@settings(deadline=None, max_examples=300)
def test_no_text_before_it_hides_no_store(text: str) -> None:
    found = read(text, "no-store")
    # A quoted string may take it in; then the text is broken, and what is inside counts if it restricts.
    assert found.no_store


# Requests.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no-cache", RequestDirectives(no_cache=True)),
        ("NO-CACHE", RequestDirectives(no_cache=True)),
        ("no-store", RequestDirectives(no_store=True)),
        ("only-if-cached", RequestDirectives(only_if_cached=True)),
        ("no-transform", RequestDirectives(no_transform=True)),
        ("max-age=0", RequestDirectives(max_age=0)),
        ('max-age="5"', RequestDirectives(max_age=5)),
        ("max-age=5, max-age=3", RequestDirectives(max_age=3)),
        ("max-age=x", RequestDirectives(max_age=0)),
        ("max-age", RequestDirectives(max_age=0)),
        ("min-fresh=5", RequestDirectives(min_fresh=5)),
        ("min-fresh=5, min-fresh=9", RequestDirectives(min_fresh=9)),
        ("min-fresh=-1", RequestDirectives(min_fresh=DELTA_MAX)),
        ("max-stale", RequestDirectives(max_stale=DELTA_MAX)),
        ("max-stale=10", RequestDirectives(max_stale=10)),
        ("max-stale=10, max-stale", RequestDirectives(max_stale=10)),
        ("max-stale=10, max-stale=5", RequestDirectives(max_stale=5)),
        ("max-stale=x", RequestDirectives()),
        ("max-stale=10, max-stale=x", RequestDirectives()),
        ("stale-if-error=30", RequestDirectives(stale_if_error=30)),
        ("stale-if-error=x", RequestDirectives(stale_if_error=0)),
        ("private, public, s-maxage=9", RequestDirectives()),
        ('x="no-cache, no-store"', RequestDirectives()),
        ("", RequestDirectives()),
    ],
)
def test_request_directives(text: str, expected: RequestDirectives) -> None:
    assert read_request(text) == expected


@pytest.mark.parametrize("pragma", ["no-cache", "No-Cache", "x, no-cache", " no-cache "])
def test_pragma_counts_without_cache_control(pragma: str) -> None:
    assert read_request(pragma=pragma) == RequestDirectives(no_cache=True, pragma=True)


@pytest.mark.parametrize("pragma", ["", "cache", "no-cache=1", 'x="no-cache"', "no-cachet"])
def test_other_pragma_says_nothing(pragma: str) -> None:
    assert read_request(pragma=pragma) is NO_REQUEST_DIRECTIVES


def test_pragma_does_not_count_beside_cache_control() -> None:
    assert read_request("max-stale=5", pragma="no-cache") == RequestDirectives(max_stale=5)


def test_long_request_field_reads_the_same() -> None:
    assert read_request(f"x={'y' * 300}, no-cache") == RequestDirectives(no_cache=True)


# Targeted fields.


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("max-age=60",), ResponseDirectives(max_age=60)),
        (("max-age=60", "no-store"), ResponseDirectives(max_age=60, no_store=True)),
        (("max-age=60;x=1, private;y",), ResponseDirectives(max_age=60, private=True)),
        (("max-age=1, max-age=2",), ResponseDirectives(max_age=2)),
        (("max-age=999999999999999",), ResponseDirectives(max_age=DELTA_MAX)),
        (("none",), ResponseDirectives()),
        (("foo=bar",), ResponseDirectives()),
        (('no-cache="a, b"',), ResponseDirectives(no_cache_fields=("a", "b"))),
        (('private="set-cookie"',), ResponseDirectives(private_fields=("set-cookie",))),
        (("no-cache",), ResponseDirectives(no_cache=True)),
        (("no-cache=?0",), ResponseDirectives()),
        (("no-store=?0",), ResponseDirectives()),
        (("no-store=1",), ResponseDirectives(no_store=True, malformed=("no-store",))),
        (("public=1",), ResponseDirectives(malformed=("public",))),
        (("public",), ResponseDirectives(public=True)),
        (("must-revalidate=x",), ResponseDirectives(must_revalidate=True, malformed=("must-revalidate",))),
        (("no-cache=foo",), ResponseDirectives(no_cache=True, malformed=("no-cache",))),
        (("no-cache=(a b)",), ResponseDirectives(no_cache=True, malformed=("no-cache",))),
        (("max-age=1.5",), ResponseDirectives(max_age=0, malformed=("max-age",))),
        (('max-age="60"',), ResponseDirectives(max_age=0, malformed=("max-age",))),
        (("max-age",), ResponseDirectives(max_age=0, malformed=("max-age",))),
        (("max-age=-1",), ResponseDirectives(max_age=0, malformed=("max-age",))),
    ],
)
def test_targeted_field(lines: tuple[str, ...], expected: ResponseDirectives) -> None:
    assert read_targeted(*lines) == expected


@pytest.mark.parametrize(
    "lines",
    [
        (), ("",), (" ",), ("Max-Age=60",), ("max-age=60,",), ("max-age = 60",), ("max-age=60;",), ("max-age=1e3",),
        ("max-age=60 no-store",), ('no-cache="a',), ("max-age=9999999999999999",), ("é",), ("max-age='60'",), ("=",),
        ("max-age=60", "&"),
    ],
)  # fmt: skip
def test_absent_empty_or_malformed_targeted_field_is_ignored(lines: tuple[str, ...]) -> None:
    assert read_targeted(*lines) is None


def test_long_targeted_field_is_read() -> None:
    padding = ", ".join(f"x{number}" for number in range(100))
    assert read_targeted(f"{padding}, max-age=60") == ResponseDirectives(max_age=60)
