"""The tags of coded forms, there and back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.compression.fields import mark_tag, tag_as_sent, unmark_conditions
from proxy.http.etag import EntityTag, parse_etags
from proxy.http.message import make_headers

CODED = ("br", "zstd", "gzip", "identity")
opaque = st.text(st.characters(codec="latin-1", exclude_characters='"', exclude_categories=("Cc", "Zs")), max_size=20)


@pytest.mark.parametrize(
    ("tag", "marked"),
    [
        ('"abc"', '"abc~br"'),
        ('""', '"~br"'),
        ('"a~b"', '"a~b~br"'),
        ('W/"abc"', 'W/"abc"'),
        ("abc", "abc"),
        ("", ""),
        ('"a"b"', '"a"b"'),
    ],
)
def test_strong_tags_are_marked_and_all_else_stays(tag: str, marked: str) -> None:
    assert mark_tag(tag, "br") == marked


@pytest.mark.parametrize("name", ["If-None-Match", "If-Match"])
@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [
        ('"abc~br"', '"abc"'),
        ('W/"abc~br"', 'W/"abc"'),
        ('"abc~identity"', '"abc"'),
        ('"x", "abc~br" , "y~gzip"', '"x", "abc", "y"'),
        ('"abc", "abc~br", "abc~gzip"', '"abc"'),
        ('"a,b~br"', '"a,b"'),
        ('"a~br~br"', '"a~br"'),
    ],
)
def test_marked_tags_are_passed_on_without_the_mark(name: str, sent: str, passed_on: str) -> None:
    changed, _ = unmark_conditions(make_headers([(name, sent)]), CODED)
    assert changed is not None
    assert changed.getall(name) == [passed_on]


@pytest.mark.parametrize(
    "sent", ["*", '"abc"', '"abc-br"', '"abc~deflate"', '"abc~"', '"abc~br', "abc~br", '"a" "b~br"', "", '"~ br"']
)
def test_what_has_no_mark_of_ours_is_passed_on_as_it_is(sent: str) -> None:
    headers = make_headers([("If-None-Match", sent)])
    assert unmark_conditions(headers, CODED) == (None, {})


def test_several_lines_are_one_list() -> None:
    changed, tags = unmark_conditions(make_headers([("If-None-Match", '"a~br"'), ("if-none-match", '"b~gzip"')]), CODED)
    assert changed is not None
    assert changed.getall("If-None-Match") == ['"a", "b"']
    assert tags == {"a": EntityTag("a~br"), "b": EntityTag("b~gzip")}


def test_a_form_that_the_client_does_not_accept_is_not_confirmed() -> None:
    headers = make_headers([("If-None-Match", '"abc~br", "abc~gzip"')])
    changed, tags = unmark_conditions(headers, ("gzip", "identity"))
    assert changed is not None
    assert changed["If-None-Match"] == '"abc~br", "abc"'
    assert tags == {"abc": EntityTag("abc~gzip")}
    assert unmark_conditions(headers, ("identity",)) == (None, {})


def test_a_range_of_a_coded_form_is_not_continued_with_the_plain_one() -> None:
    headers = make_headers([("Range", "bytes=10-"), ("If-Range", '"abc~br"')])
    assert unmark_conditions(headers, CODED) == (None, {})


def test_a_confirmation_carries_the_tag_that_the_client_sent() -> None:
    _, tags = unmark_conditions(make_headers([("If-None-Match", '"abc~br", W/"def~gzip"')]), CODED)
    assert tag_as_sent('"abc"', tags) == '"abc~br"'
    assert tag_as_sent('"def"', tags) == 'W/"def~gzip"'
    assert tag_as_sent('"other"', tags) == '"other"'
    assert tag_as_sent("no tag", tags) == "no tag"


@given(st.lists(opaque, min_size=1, max_size=4), st.sampled_from(CODED))
@settings(deadline=None)
def test_a_marked_tag_comes_back_as_it_was(opaques: list[str], coding: str) -> None:
    plain = [EntityTag(text) for text in opaques]
    sent = ", ".join(mark_tag(str(tag), coding) for tag in plain)
    changed, tags = unmark_conditions(make_headers([("If-None-Match", sent)]), CODED)
    assert changed is not None
    assert parse_etags(changed.getall("If-None-Match")) == tuple(dict.fromkeys(plain))
    assert {tag_as_sent(str(tag), tags) for tag in plain} == {mark_tag(str(tag), coding) for tag in plain}
