"""The application as a whole: errors, limits, methods, and its listener."""

import asyncio
import socket
import stat
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import BaseModel

from proxy.address import Address
from proxy.admin.app import AdminPort
from proxy.admin.operations import Endpoint, RefusedError
from proxy.admin.settings import AdminSettings
from proxy.storage.tiered import TieredStore
from tests.support.admin import bench

INVALIDATE = "/admin/cache/invalidate"


async def test_unknown_paths_and_methods_are_problems() -> None:
    async with bench() as admin:
        missing = await admin.get("/nowhere")
        assert missing.status == 404 and missing.is_problem and "/openapi.json" in missing.document["detail"]
        wrong = await admin.call("DELETE", INVALIDATE)
        assert wrong.status == 405 and wrong.is_problem
        assert wrong.headers["Allow"] == "POST"
        assert (await admin.call("POST", "/metrics")).headers["Allow"] == "GET,HEAD"


async def test_no_answer_may_be_kept() -> None:
    async with bench() as admin:
        for path in ("/health", "/nowhere", "/metrics"):
            headers = (await admin.get(path)).headers
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Server"] == "sidecache"


async def test_head_answers_like_get_without_content() -> None:
    async with bench() as admin:
        head, got = await admin.call("HEAD", "/admin/config"), await admin.get("/admin/config")
        assert (head.status, head.raw) == (200, b"")
        assert head.headers["Content-Length"] == got.headers["Content-Length"] == str(len(got.raw))


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b'{"all": true', b"\xff", b'{"tag": "\\ud800"}', b"[" * 5000])
async def test_what_is_no_json_is_a_bad_request(body: bytes) -> None:
    async with bench() as admin:
        answer = await admin.call("POST", INVALIDATE, data=body)
        assert answer.status == 400 and answer.is_problem


async def test_a_body_over_the_limit_is_too_large_told_its_length_or_not() -> None:
    async def pieces() -> object:
        for _ in range(4):
            yield b" " * 512

    async with bench(max_body_bytes=1024) as admin:
        fits = b'{"all": true}'.ljust(1024)
        assert (await admin.call("POST", INVALIDATE, data=fits)).status == 200
        for body in (fits + b" ", pieces()):
            answer = await admin.call("POST", INVALIDATE, data=body)
            assert answer.status == 413 and answer.is_problem


async def test_a_body_that_does_not_arrive_times_out() -> None:
    async with bench(body_timeout_seconds=0.05) as admin:
        never = asyncio.Event()

        async def stuck() -> object:
            yield b"{"
            await never.wait()

        answer = await admin.call("POST", INVALIDATE, data=stuck())
        assert answer.status == 408 and answer.is_problem


@pytest.mark.parametrize("rest", [b"zz\r\nnonsense\r\n", b"2\r\n{}nonsense\r\n"])
async def test_a_malformed_body_is_a_bad_request(rest: bytes) -> None:
    async with bench() as admin:
        address = admin.port.addresses[0]
        reader, writer = await asyncio.open_connection(address.host, address.port)
        head = f"POST {INVALIDATE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        await writer.drain()
        writer.write(rest)
        answer = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        await writer.wait_closed()
        assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400")), answer


async def test_a_caller_who_leaves_amid_its_body_is_no_failure_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: asyncio.Future[RefusedError] = asyncio.get_running_loop().create_future()
    read = Endpoint._body

    async def watched(endpoint: Endpoint, request: web.Request) -> BaseModel:
        try:
            return await read(endpoint, request)
        except RefusedError as error:
            refused.set_result(error)
            raise

    monkeypatch.setattr(Endpoint, "_body", watched)
    async with bench() as admin:
        address = admin.port.addresses[0]
        _, writer = await asyncio.open_connection(address.host, address.port)
        head = f"POST {INVALIDATE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(head.encode() + b"Content-Length: 13\r\n\r\n{")
        await writer.drain()
        writer.transport.abort()
        assert (await asyncio.wait_for(refused, 10)).status == 400
        assert (await admin.get("/health")).status == 200


async def test_a_failure_of_ours_shows_no_insides(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: TieredStore) -> object:
        raise RuntimeError("secret insides")

    async with bench() as admin:
        monkeypatch.setattr(TieredStore, "stats", fail)
        answer = await admin.get("/admin/cache/stats")
        assert answer.status == 500 and answer.is_problem
        assert b"insides" not in answer.raw and b"Traceback" not in answer.raw
        assert (await admin.get("/health")).status == 200


async def test_a_parameter_given_twice_is_a_mistake() -> None:
    async with bench() as admin:
        order = {"urls": ["http://a/"]}
        answer = await admin.post("/admin/cache/warmup?wait=true&wait=false", order)
        assert answer.status == 422
        assert [mistake["path"] for mistake in answer.document["errors"]] == ["wait"]


async def test_bytes_that_are_no_http_get_no_traceback() -> None:
    async with bench() as admin:
        address = admin.port.addresses[0]
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
        assert b"Traceback" not in answer and b".py" not in answer


async def test_a_unix_socket_is_for_its_owner_and_goes_with_the_port(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # what a process left that was killed
    async with bench(listen=f"unix:{path}") as admin:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert str(admin.port.addresses[0]) == f"unix:{path}"
        assert (await admin.get("/health")).status == 200
        rival = AdminPort(admin.target, AdminSettings(listen=Address(path=str(path))))
        with pytest.raises(OSError, match="in use"):
            await rival.start()
        assert (await admin.get("/health")).status == 200
    assert not path.exists()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="in use"):
        async with bench(listen=f"unix:{path}"):
            pass
    assert path.read_text() == "data"


async def test_a_port_that_is_taken_is_an_error_and_close_may_be_called_twice() -> None:
    async with bench() as admin:
        rival = AdminPort(admin.target, AdminSettings(listen=admin.port.addresses[0]))
        with pytest.raises(OSError, match="address already in use"):
            await rival.start()
        assert rival.addresses == ()
        await rival.close()
        await admin.port.close()
        await admin.port.close()
        assert admin.port.addresses == ()
