"""What an Accept-Encoding value asks for (RFC 9110 §12.5.3)."""

import pytest

from plugins.compression.codecs import CODINGS, Coding
from plugins.compression.wishes import Wishes


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, None),
        ("", None),
        ("gzip, br, zstd", CODINGS[0]),
        ("gzip;q=0.9, br;q=0.5", "gzip"),
        ("*", CODINGS[0]),
        ("gzip;q=0.2, *;q=0.1", "gzip"),
        ("gzip;q=0.5, identity", None),
        ("x-gzip", "gzip"),
        (f"gzip{' ' * 200}", "gzip"),
    ],
)
def test_best_liked_coding_is_used_and_of_equals_the_first_offered(accept: str | None, coding: Coding | None) -> None:
    assert Wishes(CODINGS).of_get(accept).coding == coding


def test_coding_that_is_not_offered_is_not_used() -> None:
    assert Wishes(("gzip",)).of_get("br, gzip;q=0.1").coding == "gzip"
    assert Wishes(("gzip",)).of_get("br").coding is None


def test_wish_without_other_fields_is_a_plain_gets() -> None:
    wish = Wishes(CODINGS).of_get("gzip")
    assert (wish.as_is, wish.head, dict(wish.tags)) == (False, False, {})
    assert wish.accepted == ("gzip", "identity")


def test_identity_can_be_ruled_out() -> None:
    assert "identity" not in Wishes(CODINGS).of_get("gzip, *;q=0").accepted
