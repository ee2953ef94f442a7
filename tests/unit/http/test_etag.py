"""Entity tags, lists of them, and the two comparisons."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.etag import EntityTag, parse_etag, parse_etags

OPAQUE = st.text("!#abcXYZ019,~[]\\ü\udcff", max_size=10)
TAGS = st.builds(EntityTag, OPAQUE, st.booleans())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"abc"', EntityTag("abc")),
        ('W/"abc"', EntityTag("abc", weak=True)),
        ('""', EntityTag("")),
        ('W/""', EntityTag("", weak=True)),
        ('  "a"\t', EntityTag("a")),
        ('"a,b"', EntityTag("a,b")),
        ('"a\\"', EntityTag("a\\")),
        ('"\udcff"', EntityTag("\udcff")),
        ('"é"', EntityTag("é")),
        (None, None),
        ("", None),
        ("abc", None),
        ("'abc'", None),
        ('w/"abc"', None),
        ('W"abc"', None),
        ('W/ "abc"', None),
        ('"a b"', None),
        ('"a"b"', None),
        ('"a', None),
        ('a"', None),
        ('"a", "b"', None),
        ('"a\x7f"', None),
        ('"a\n"', None),
        ("*", None),
    ],
)
def test_entity_tag(value: str | None, expected: EntityTag | None) -> None:
    assert parse_etag(value) == expected


@given(TAGS)
@settings(deadline=None)
def test_written_tag_reads_as_itself(tag: EntityTag) -> None:
    assert parse_etag(str(tag)) == tag


@given(st.lists(TAGS, max_size=6), st.sampled_from([",", ", ", " , ", ",,", "\t,"]))
@settings(deadline=None)
def test_written_list_reads_as_itself(tags: list[EntityTag], comma: str) -> None:
    assert parse_etags([comma.join(map(str, tags))]) == tuple(tags)
    assert parse_etags(map(str, tags)) == tuple(tags)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["*"], None),
        ([" * "], None),
        ([""], ()),
        ([], ()),
        ([","], ()),
        (['"a"', '"b"'], (EntityTag("a"), EntityTag("b"))),
        (['"a,b", W/"c"'], (EntityTag("a,b"), EntityTag("c", weak=True))),
        (['"a" "b"'], ()),
        (['"a", b'], ()),
        (['"a", *'], ()),
        (["*, *"], ()),
        (['"a'], ()),
        (['w/"a"'], ()),
    ],
)
def test_list_of_entity_tags(lines: list[str], expected: tuple[EntityTag, ...] | None) -> None:
    assert parse_etags(lines) == expected


@pytest.mark.parametrize(
    ("one", "other", "strong", "weak"),
    [  # RFC 9110 §8.8.3.2, the table
        ('W/"1"', 'W/"1"', False, True),
        ('W/"1"', 'W/"2"', False, False),
        ('W/"1"', '"1"', False, True),
        ('"1"', 'W/"1"', False, True),
        ('"1"', '"1"', True, True),
        ('"1"', '"2"', False, False),
    ],
)
def test_comparison(one: str, other: str, strong: bool, weak: bool) -> None:
    first, second = parse_etag(one), parse_etag(other)
    assert first is not None
    assert second is not None
    assert first.matches_strongly(second) is strong
    assert first.matches_weakly(second) is weak


@given(st.text('W/"*, ab\x00\n', max_size=20))
@settings(deadline=None)
def test_reading_never_raises(value: str) -> None:
    parse_etag(value)
    parse_etags([value])
