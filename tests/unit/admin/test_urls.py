"""URLs as operators write them."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.admin.urls import Location, parse_host, parse_prefix, parse_target, parse_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://a.example/x?y=1#z", "http://a.example/x?y=1"),
        ("HTTPS://A.Example:443", "https://a.example/"),
        ("http://a.example:443/", "http://a.example:443/"),
        ("http://a.example:/", "http://a.example/"),
        ("http://[::1]:8080?q", "http://[::1]:8080/?q"),
        ("http://a/%2F;b/../c", "http://a/%2F;b/../c"),
    ],
)
def test_a_url_takes_the_form_that_requests_have(text: str, url: str) -> None:
    assert parse_url(text).url == url


@pytest.mark.parametrize(
    "text", ["", "/x", "ftp://a/", "http:///x", "http://a b/", "http://u@h/", "http://a/\n", "http://a/é"]
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|percent-encoded"):
        parse_url(text)


@pytest.mark.parametrize("text", ["http://a", "http://a?x", "http://a/#x", "a/", "http:/a/"])
def test_a_prefix_reaches_into_the_path(text: str) -> None:
    with pytest.raises(ValueError, match="no prefix"):
        parse_prefix(text)
    assert parse_prefix("http://A:80/v") == "http://a/v"


@given(
    st.sampled_from(["http", "https"]),
    st.from_regex(r"[a-z0-9-]{1,9}(\.[a-z]{1,3}){0,2}(:[1-9][0-9]{0,3})?", fullmatch=True),
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=20),
)
@settings(deadline=None)
def test_reading_is_idempotent_and_keeps_the_target(scheme: str, host: str, rest: str) -> None:
    once = parse_url(f"{scheme}://{host}/{rest}")
    assert once.target == f"/{rest}"
    assert parse_url(once.url) == once == Location(scheme, parse_host(host, scheme), parse_target(f"/{rest}"))


@given(st.text(max_size=40))
@settings(deadline=None)
def test_any_text_is_a_url_or_a_value_error(text: str) -> None:
    for read in (parse_url, parse_prefix, parse_target):
        with contextlib.suppress(ValueError):
            assert read(text)
