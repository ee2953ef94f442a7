"""An upstream behind TLS, or on a Unix socket."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from proxy.clock import SystemClock
from proxy.errors import UpstreamConnectError
from proxy.http.message import Request
from proxy.metrics.registry import Registry
from proxy.tasks import Tasks
from proxy.upstream.pool import UpstreamPool
from proxy.upstream.settings import UpstreamSettings
from tests.support.sidecar import eventually


class Origin:
    """Answers every request with two bytes."""

    def __init__(self) -> None:
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.open += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()
            self.open -= 1

    async def quiet(self) -> None:
        """Wait until nobody is connected."""
        await eventually(lambda: self.open == 0)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@asynccontextmanager
async def tls_origin(authority: trustme.CA, name: str = "localhost") -> AsyncIterator[int]:
    """The port of an origin whose certificate is for `name`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    origin = Origin()
    async with await asyncio.start_server(origin.serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]
        await origin.quiet()


@asynccontextmanager
async def pool(url: str, ca_file: Path | None = None, *, verify_tls: bool = True) -> AsyncIterator[UpstreamPool]:
    """A pool for `url`."""
    tasks = Tasks()
    settings = UpstreamSettings(url=url, ca_file=ca_file, verify_tls=verify_tls)
    made = UpstreamPool(settings, SystemClock(), Registry(), tasks)
    try:
        yield made
    finally:
        await made.close()
        await tasks.close()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


async def test_a_certificate_of_a_trusted_authority_is_good(authority: trustme.CA, ca_file: Path) -> None:
    async with tls_origin(authority) as port, pool(f"https://localhost:{port}", ca_file) as made:
        for _ in range(3):
            assert (await made.send(Request("GET", "/"))).body == b"ok"
        assert made.stats()["open"] == 1


async def test_a_certificate_of_nobody_known_is_refused(authority: trustme.CA) -> None:
    async with tls_origin(authority) as port, pool(f"https://localhost:{port}") as made:
        with pytest.raises(UpstreamConnectError) as caught:
            await made.send(Request("GET", "/"))
        assert caught.value.error_type == "tls_certificate_error"


async def test_a_certificate_for_another_name_is_refused(authority: trustme.CA, ca_file: Path) -> None:
    async with tls_origin(authority, "other.test") as port, pool(f"https://localhost:{port}", ca_file) as made:
        with pytest.raises(UpstreamConnectError) as caught:
            await made.send(Request("GET", "/"))
        assert caught.value.error_type == "tls_certificate_error"


async def test_checks_can_be_turned_off(authority: trustme.CA) -> None:
    async with tls_origin(authority, "x.test") as port, pool(f"https://localhost:{port}", verify_tls=False) as made:
        assert (await made.send(Request("GET", "/"))).body == b"ok"


async def test_an_origin_that_does_not_speak_tls_is_told(ca_file: Path) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with pool(f"https://localhost:{port}", ca_file) as made:
            with pytest.raises(UpstreamConnectError) as caught:
                await made.send(Request("GET", "/"))
            assert caught.value.error_type == "tls_protocol_error"


async def test_a_unix_socket(tmp_path: Path) -> None:
    path, origin = tmp_path / "origin.sock", Origin()
    async with await asyncio.start_unix_server(origin.serve, path):
        async with pool(f"unix:{path}") as made:
            assert (await made.send(Request("GET", "/"))).body == b"ok"
        await origin.quiet()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://a", "no upstream"),
        ("http://a/path", "has a path"),
        ("http://user:pw@a", "credentials"),
        ("http://a:99999", "no URL"),
        ("unix:relative", "no absolute path"),
        ("localhost:8000", "no upstream"),
    ],
)
def test_a_url_that_is_no_upstream_is_refused_with_what_was_expected(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        UpstreamSettings(url=url)
    assert "expected" in str(caught.value) or "credentials" in words
