"""Whom to believe about the client."""

from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.server.forwarding import Forwarding, Origin, parse_forwarded

NETWORKS = [ip_network("10.0.0.0/8"), ip_network("::1")]
TRUSTED = Forwarding(NETWORKS)
STANDARD = Forwarding(NETWORKS, "forwarded")
NOBODY = Forwarding([])


def apply(forwarding: Forwarding, peer: str, *fields: tuple[str, str]) -> tuple[Origin, CIMultiDict[str]]:
    headers = CIMultiDict(fields)
    return forwarding.apply(headers, peer=peer, scheme="http", host="app"), headers


def test_untrusted_peer_is_the_client_and_what_it_says_is_dropped() -> None:
    origin, headers = apply(
        NOBODY,
        "192.0.2.1",
        ("Forwarded", "for=1.1.1.1"),
        ("X-Forwarded-For", "1.1.1.1"),
        ("X-Forwarded-For", "2.2.2.2"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil"),
        ("X-Forwarded-Port", "1"),
        ("X-Real-IP", "1.1.1.1"),
        ("X-Other", "kept"),
    )
    assert origin == Origin("192.0.2.1", "http", "app")
    assert dict(headers) == {
        "X-Other": "kept",
        "X-Forwarded-For": "192.0.2.1",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "app",
        "Forwarded": 'for=192.0.2.1;host="app";proto=http',
    }


@pytest.mark.parametrize(
    ("fields", "client"),
    [
        ([], "10.0.0.1"),
        ([("X-Forwarded-For", "192.0.2.1")], "192.0.2.1"),
        ([("X-Forwarded-For", "6.6.6.6, 192.0.2.1, 10.9.9.9")], "192.0.2.1"),
        ([("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "192.0.2.1")], "192.0.2.1"),
        ([("X-Forwarded-For", "10.1.1.1, 10.2.2.2")], "10.1.1.1"),
        ([("X-Forwarded-For", "6.6.6.6, nonsense")], "10.0.0.1"),
        ([("X-Forwarded-For", "192.0.2.1:4711")], "192.0.2.1"),
        ([("X-Forwarded-For", "[2001:db8::1]:4711")], "2001:db8::1"),
        ([("X-Forwarded-For", "2001:DB8::1")], "2001:db8::1"),
        ([("Forwarded", "for=192.0.2.1;proto=https")], "192.0.2.1"),
        ([("Forwarded", 'for=6.6.6.6, for="[2001:db8::1]:99";by=x, for=10.1.1.1')], "2001:db8::1"),
        ([("Forwarded", "for=6.6.6.6"), ("Forwarded", "for=192.0.2.1")], "192.0.2.1"),
        ([("Forwarded", "for=192.0.2.1"), ("X-Forwarded-For", "6.6.6.6")], "192.0.2.1"),
        ([("X-Forwarded-For", "192.0.2.1"), ("Forwarded", "for=6.6.6.6")], "192.0.2.1"),
        ([("Forwarded", "for=unknown")], "10.0.0.1"),
        ([("Forwarded", "for=6.6.6.6, for=_hidden")], "10.0.0.1"),
        ([("Forwarded", "for=192.0.2.1;;broken==")], "10.0.0.1"),
    ],
)
def test_client_is_the_last_address_that_is_no_trusted_proxy(fields: list[tuple[str, str]], client: str) -> None:
    forwarding = STANDARD if fields and fields[0][0] == "Forwarded" else TRUSTED
    assert apply(forwarding, "10.0.0.1", *fields)[0].client == client


@pytest.mark.parametrize(
    ("fields", "scheme", "host"),
    [
        ([("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "www")], "https", "www"),
        ([("X-Forwarded-Proto", "HTTPS")], "https", "app"),
        ([("X-Forwarded-Proto", "gopher")], "http", "app"),
        (
            [
                ("X-Forwarded-For", "6.6.6.6, 192.0.2.1"),
                ("X-Forwarded-Proto", "http, https"),
                ("X-Forwarded-Host", "evil, www"),
            ],
            "https",
            "www",
        ),
        ([("Forwarded", "for=6.6.6.6;proto=http;host=evil, for=192.0.2.1;Proto=https;HOST=www")], "https", "www"),
        ([("Forwarded", "for=192.0.2.1")], "http", "app"),
    ],
)
def test_scheme_and_host_are_those_of_the_same_hop(fields: list[tuple[str, str]], scheme: str, host: str) -> None:
    forwarding = STANDARD if fields[0][0] == "Forwarded" else TRUSTED
    origin = apply(forwarding, "10.0.0.1", *fields)[0]
    assert (origin.scheme, origin.host) == (scheme, host)


def test_this_hop_is_added_to_what_a_trusted_peer_says() -> None:
    fields = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "2001:db8::1"), ("X-Forwarded-Proto", "https")]
    _, headers = apply(TRUSTED, "10.0.0.1", *fields, ("Forwarded", "for=6.6.6.6"), ("X-Real-IP", "6.6.6.6"))
    assert dict(headers) == {
        "X-Forwarded-For": "192.0.2.1, 2001:db8::1, 10.0.0.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "app",
        "Forwarded": 'for=192.0.2.1;host="app";proto=https, for="[2001:db8::1]", for=10.0.0.1',
    }


def test_both_kinds_of_fields_are_written_whichever_is_believed() -> None:
    fields = [("Forwarded", 'for=192.0.2.1;proto=https;host="w\\"w", for=unknown'), ("X-Forwarded-For", "6.6.6.6")]
    _, headers = apply(STANDARD, "10.0.0.1", *fields)
    assert headers["X-Forwarded-For"] == "192.0.2.1, unknown, 10.0.0.1"
    assert headers["Forwarded"] == 'for=192.0.2.1;host="app";proto=http, for=unknown, for=10.0.0.1'


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),
        ("::1", True),
        ("::2", False),
        ("", True),
        ("nonsense", False),
    ],
)
def test_trust(address: str, trusted: bool) -> None:
    assert TRUSTED.trusts(address) is trusted
    assert NOBODY.trusts(address) is False


def test_peer_of_a_unix_socket_has_no_address() -> None:
    origin, headers = apply(TRUSTED, "", ("X-Forwarded-For", "192.0.2.1"))
    assert origin.client == "192.0.2.1"
    assert headers["X-Forwarded-For"] == "192.0.2.1"
    assert headers["Forwarded"] == 'for=192.0.2.1;host="app";proto=http'
    _, headers = apply(NOBODY, "")
    assert headers["X-Forwarded-For"] == "unknown"
    assert headers["Forwarded"] == 'for=unknown;host="app";proto=http'


def test_quoted_pairs_are_read() -> None:
    assert parse_forwarded(r'for="a\"b,c;d";by=e , for=f') == [{"for": 'a"b,c;d', "by": "e"}, {"for": "f"}]


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_no_field_raises(forwarded: str, addresses: str) -> None:
    for forwarding in (TRUSTED, STANDARD):
        origin, headers = apply(forwarding, "10.0.0.1", ("Forwarded", forwarded), ("X-Forwarded-For", addresses))
        assert origin.scheme in {"http", "https"}
        assert parse_forwarded(headers["Forwarded"])
