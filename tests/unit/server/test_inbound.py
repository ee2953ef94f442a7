"""From what aiohttp parsed to a `Request`."""

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import ClientError
from proxy.server.inbound import RequestBody, authority, discard


@pytest.mark.parametrize(
    ("text", "scheme", "host"),
    [
        ("Example.COM", "http", "example.com"),
        ("example.com:80", "http", "example.com"),
        ("example.com:80", "https", "example.com:80"),
        ("example.com:443", "https", "example.com"),
        ("example.com:", "http", "example.com"),
        ("example.com:8080", "http", "example.com:8080"),
        ("[2001:DB8::1]:80", "http", "[2001:db8::1]"),
        ("my_host", "http", "my_host"),
        ("192.0.2.1", "http", "192.0.2.1"),
        ("xn--bcher-kva.example", "http", "xn--bcher-kva.example"),
    ],
)
def test_host_is_normalised(text: str, scheme: str, host: str) -> None:
    assert authority(text, scheme) == host


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a:b", "a:65536", "a:123456", "me@a", "a/b", "a?b", "a#b", "a b", "a,b c", "[::1", "::1", "a\udcff",
     "[x]", 'a"b'],
)  # fmt: skip
def test_what_is_no_host_is_none(text: str) -> None:
    assert authority(text, "http") is None


@settings(deadline=None)
@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    host = authority(text, "http")
    assert host is None or authority(host, "http") == host


@pytest.fixture
async def content() -> StreamReader:
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.connection_made(asyncio.Transport())
    return StreamReader(protocol, 65_536, loop=loop)


async def test_closed_body_cannot_be_read_on(content: StreamReader) -> None:
    """Its end would look like the end of a complete body."""
    content.feed_data(b"abc")
    body = RequestBody(content, timeout_seconds=1.0, max_bytes=None, ask=None)
    await body.aclose()
    await body.aclose()
    with pytest.raises(ClientError):
        await body.__anext__()


async def test_client_that_is_gone_when_asked_for_its_body_is_a_client_error(content: StreamReader) -> None:
    def ask() -> None:
        raise ConnectionResetError

    body = RequestBody(content, timeout_seconds=1.0, max_bytes=None, ask=ask)
    assert body.held_back
    with pytest.raises(ClientError):
        await body.__anext__()
    assert not body.held_back


async def test_two_readers_of_one_body_are_an_error_not_a_mixture(content: StreamReader) -> None:
    body = RequestBody(content, timeout_seconds=5.0, max_bytes=None, ask=None)
    first = asyncio.ensure_future(body.__anext__())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(ClientError):
        await body.__anext__()
    content.feed_data(b"abc")
    assert await first == b"abc"


async def test_discarding_stops_at_the_limit(content: StreamReader) -> None:
    content.feed_data(bytes(11))
    assert not await discard(content, 10, 1.0)


async def test_discarding_stops_at_an_error(content: StreamReader) -> None:
    content.set_exception(ValueError("malformed"))
    assert not await discard(content, 10, 1.0)
