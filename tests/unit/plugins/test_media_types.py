"""Which Content-Type values a list of media ranges takes in."""

import pytest
from pydantic import TypeAdapter, ValidationError

from plugins.media_types import MediaRange, media_matcher, media_type


@pytest.mark.parametrize(
    ("ranges", "content_type", "fits"),
    [
        (["text/*"], "text/html", True),
        (["text/*"], "TEXT/HTML;charset=utf-8", True),
        (["TEXT/*"], " text/html ", True),
        (["*/*+json"], "application/problem+json", True),
        (["*/*+json"], "application/json", False),
        (["text/css", "image/png"], "image/png", True),
        (["text/css"], "text/csss", False),
        (["text/css"], "xtext/css", False),
        (["text/*"], "textual", False),
        (["text/*"], "", False),
        (["a.b/c+d"], "axb/ccd", False),
        ([], "text/html", False),
    ],
)
def test_ranges_match_whole_types(ranges: list[str], content_type: str, fits: bool) -> None:
    assert media_matcher(ranges)(content_type) is fits


def test_parameters_are_no_part_of_the_type() -> None:
    assert media_type('Text/HTML ; charset="a;b"') == "text/html"


@pytest.mark.parametrize("text", ["json", "*", "text/", "/x", "text/html; q=1", "a/b/c", "text/[a]"])
def test_what_is_no_media_range_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(MediaRange).validate_python(text)
