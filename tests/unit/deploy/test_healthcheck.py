import asyncio
import socket
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from deploy.healthcheck import is_alive


def app(status: int) -> web.Application:
    async def health(_: web.Request) -> web.Response:
        return web.Response(status=status)

    application = web.Application()
    application.router.add_get("/health", health)
    return application


@pytest.mark.parametrize(("status", "alive"), [(200, True), (503, False), (404, False)])
async def test_alive_is_what_answers_200(status: int, alive: bool) -> None:
    async with TestServer(app(status), host="127.0.0.1") as server:
        for host in ("127.0.0.1", "0.0.0.0", ""):
            assert await asyncio.to_thread(is_alive, f"{host}:{server.port}") is alive


async def test_a_unix_socket_is_asked_too(tmp_path: Path) -> None:
    runner = web.AppRunner(app(200))
    await runner.setup()
    try:
        path = tmp_path / "admin.sock"
        await web.UnixSite(runner, str(path)).start()
        assert await asyncio.to_thread(is_alive, f"unix:{path}")
    finally:
        await runner.cleanup()
    assert not is_alive(f"unix:{tmp_path / 'other.sock'}")


def test_nobody_there_is_not_alive() -> None:
    assert not is_alive(f"127.0.0.1:{unused_port()}")


def test_what_is_no_http_is_not_alive() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = asyncio.to_thread(is_alive, f"127.0.0.1:{port}")

        async def answer() -> bool:
            waiting = asyncio.ensure_future(client)
            connection, _ = await asyncio.to_thread(server.accept)
            with connection:
                await asyncio.to_thread(connection.sendall, b"SSH-2.0-none\r\n")
            return await waiting

        assert asyncio.run(answer()) is False
