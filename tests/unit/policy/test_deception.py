"""Web cache deception."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policy.deception import agrees_with_path
from proxy.policy.model import PolicyOptions, Revalidate
from proxy.policy.reasons import Reason
from proxy.policy.reuse import decide
from proxy.policy.storing import may_store
from proxy.policy.validation import freshen
from tests.unit.policy.build import NOW, ask, keep, reply

OPTIONS = PolicyOptions(default_ttl=60)
HTML = "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("target", "content_type", "expected"),
    [
        ("/account", HTML, True),
        ("/account/", HTML, True),
        ("/a.b/account", HTML, True),
        ("/index.html", HTML, True),
        ("/index.php", HTML, True),
        ("/a.css", "text/css", True),
        ("/a.CSS", "Text/CSS; charset=utf-8", True),
        ("/a.css?v=1", "text/css", True),
        ("/account?x=.css", HTML, True),
        ("/a.png", "image/webp", True),
        ("/a.woff2", "font/woff2", True),
        ("/a.js", "application/javascript", True),
        ("/account/x.css", HTML, False),
        ("/account/x.CsS", HTML, False),
        ("/account;x.css", HTML, False),
        ("/account%2Fx.css", HTML, False),
        ("/account%3Bx.css", HTML, False),
        ("/account%00.css", HTML, False),
        ("/account/x%2ecss", HTML, False),
        ("/account/x.c%73s", HTML, False),
        ("/account/x.png", "application/json", False),
        ("/account/x.js", HTML, False),
        ("/x.css", "", False),
        ("/x.json", "application/jsonp", False),
    ],
)
def test_extension_and_content_type(target: str, content_type: str, expected: bool) -> None:
    assert agrees_with_path(ask(target=target), reply(Content_Type=content_type)) is expected


def test_route_lifetime_is_not_for_what_the_path_does_not_promise() -> None:
    request, page = ask(target="/account/x.css"), reply(Content_Type=HTML)
    assert may_store(request, page, OPTIONS).reason is Reason.EXTENSION_MISMATCH
    assert may_store(request, reply(Content_Type="text/css"), OPTIONS)
    assert may_store(request, reply(Content_Type=HTML, Cache_Control="no-store"), OPTIONS).reason is Reason.NO_STORE


def test_lifetime_of_the_origins_own_counts() -> None:
    request, page = ask(target="/account/x.css"), reply(Content_Type=HTML, Cache_Control="max-age=5")
    assert may_store(request, page, OPTIONS)
    assert keep(page, request, options=OPTIONS).fresh_until == NOW + 5


def test_validation_does_not_bring_the_route_lifetime_back() -> None:
    page = reply(Content_Type=HTML, ETag='"a"')
    stored = keep(page, ask(target="/account/x.css"), options=OPTIONS)
    again = freshen(stored, reply(304, ETag='"a"'), request_time=NOW, response_time=NOW, options=OPTIONS)
    for found in (stored, again):
        assert isinstance(decide(ask(), found, NOW, OPTIONS), Revalidate)
    assert keep(page, ask(target="/account"), options=OPTIONS).fresh_until == NOW + 60


@given(st.text(max_size=30), st.text(max_size=30))
@settings(deadline=None)
def test_judging_never_raises(target: str, content_type: str) -> None:
    agrees_with_path(ask(target=target), reply(Content_Type=content_type))
