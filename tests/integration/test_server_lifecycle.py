"""Opening, timers, draining."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from proxy.address import Address
from proxy.clock import SystemClock
from proxy.http.channel import Tunnel
from proxy.http.message import Request, Response, make_headers
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import InformationalSender
from proxy.server.accepting import MOST_AT_ONCE
from proxy.server.listener import Listener
from proxy.server.settings import ServerSettings
from tests.support.raw_client import RawClient, request
from tests.support.scripted_application import MemoryChannel, ScriptedApplication, ScriptedStream, echo, serving, text


@pytest.fixture
def application() -> ScriptedApplication:
    return ScriptedApplication()


def ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def client_of(address: Address) -> socket.socket:
    client = socket.socket(socket.AF_UNIX if address.path else socket.AF_INET)
    client.connect(address.path or (address.host, address.port))
    return client


class Gate:
    """An application's answer that waits."""

    def __init__(self, response: Response | None = None) -> None:
        self.open = asyncio.Event()
        self.response = response or text()

    async def __call__(self, seen: Request, informational: InformationalSender | None) -> Response:
        await self.open.wait()
        return self.response


@pytest.mark.skipif(not ipv6_works(), reason="this machine has no IPv6")
@pytest.mark.parametrize("listen", ["[::1]:0", "[::]:0"])
async def test_ipv6(application: ScriptedApplication, listen: str) -> None:
    async with serving(application, listen=listen) as listener:
        address = Address("::1", listener.addresses[0].port)
        async with await RawClient.connect(address) as client:
            assert (await client.ask(request())).body == b"hello"
    assert application.requests[0].client == "::1"
    assert application.requests[0].headers["Forwarded"] == 'for="[::1]";host="example.com";proto=http'


async def test_every_interface(application: ScriptedApplication) -> None:
    async with serving(application, listen=":0") as listener:
        for address in listener.addresses:
            async with await RawClient.connect(
                Address("127.0.0.1" if ":" not in address.host else "::1", address.port)
            ) as client:
                assert (await client.ask(request())).body == b"hello"


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix"])
async def test_clients_that_connect_at_once_wait_for_few_turns_of_the_event_loop(
    application: ScriptedApplication, tmp_path: Path, listen: str
) -> None:
    clients = MOST_AT_ONCE + 10
    where = f"unix:{tmp_path / 's'}" if listen == "unix" else listen
    async with serving(application, listen=where) as listener:
        with contextlib.ExitStack() as connected:
            (address,) = listener.addresses
            for _ in range(clients):
                connected.enter_context(client_of(address))
            turns = 0
            while len(listener._protocols.clients) < clients:
                await asyncio.sleep(0)
                turns += 1
                assert turns <= 8


async def test_whoever_was_accepted_when_draining_began_is_let_go(application: ScriptedApplication) -> None:
    async with serving(application) as listener:
        with client_of(listener.addresses[0]) as client:
            while not listener._connecting:
                await asyncio.sleep(0)
            assert not listener._protocols.clients  # accepted, and no client yet
            assert await listener.drain()
            client.settimeout(5)
            assert client.recv(1) == b""


async def test_unix_socket_and_one_left_behind(application: ScriptedApplication, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(application, listen=f"unix:{path}") as listener:
        assert listener.addresses == (Address(path=str(path)),)
        async with await RawClient.connect(listener.addresses[0]) as client:
            assert (await client.ask(request())).body == b"hello"
            assert (await client.ask(request(version="1.0", host=None))).body == b"hello"
    assert not path.exists()
    assert application.requests[0].client == ""
    assert application.requests[0].headers["X-Forwarded-For"] == "unknown"
    assert application.requests[1].host == "localhost"


async def test_unix_socket_in_use_is_left_alone(application: ScriptedApplication, tmp_path: Path) -> None:
    async with serving(application, listen=f"unix:{tmp_path}/s") as listener:
        with pytest.raises(OSError, match="in use"):
            async with serving(application, listen=f"unix:{tmp_path}/s"):
                pass
        async with await RawClient.connect(listener.addresses[0]) as client:
            assert (await client.ask(request())).body == b"hello"


async def test_file_that_is_no_socket_is_left_alone(application: ScriptedApplication, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(OSError, match=r"in use|exists"):
        async with serving(application, listen=f"unix:{path}"):
            pass
    assert path.read_text() == "precious"


async def test_port_is_shared_only_when_told(application: ScriptedApplication) -> None:
    async with serving(application, reuse_port=True) as first:
        listen = str(first.addresses[0])
        async with serving(application, listen=listen, reuse_port=True) as second:
            assert second.addresses == first.addresses
        with pytest.raises(OSError, match="in use"):
            async with serving(application, listen=listen):
                pass


async def test_silent_connection_is_closed(application: ScriptedApplication) -> None:
    async with (
        serving(application, keep_alive_timeout_seconds=0.05) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        assert await client.closed()
    assert application.handled == 0


async def test_idle_connection_is_closed_after_a_request(application: ScriptedApplication) -> None:
    async with (
        serving(application, keep_alive_timeout_seconds=0.5) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        assert (await client.ask(request())).status == 200
        assert await client.closed()


async def test_busy_connection_is_not_idle(application: ScriptedApplication) -> None:
    gate = Gate()
    application.answer = gate
    async with (
        serving(application, keep_alive_timeout_seconds=0.5, header_timeout_seconds=0.5) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        await client.send(request())
        await application.asked()
        await asyncio.sleep(0.7)  # past both time-outs
        gate.open.set()
        assert (await client.response()).status == 200


@pytest.mark.parametrize("before", [False, True], ids=["first request", "second request"])
async def test_head_that_takes_too_long_is_408_however_it_trickles(
    application: ScriptedApplication, before: bool
) -> None:
    async with (
        serving(application, header_timeout_seconds=0.2) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        if before:
            assert (await client.ask(request())).status == 200
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def trickle() -> None:
            await client.send(b"GET / HTTP/1.1\r\nX: ")
            while True:
                await client.send(b"x")
                await asyncio.sleep(0.01)

        trickling = asyncio.ensure_future(trickle())
        head = await client.head()
        assert (head.status, head.field("Connection")) == (408, "close")
        assert 0.15 < loop.time() - began < 5
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
    assert application.handled == int(before)


async def test_draining_lets_requests_finish_and_closes_the_rest(application: ScriptedApplication) -> None:
    gate = Gate()
    application.answer = gate
    async with serving(application) as listener:
        address = listener.addresses[0]
        async with (
            await RawClient.connect(address) as busy,
            await RawClient.connect(address) as idle,
            await RawClient.connect(address) as half,
        ):
            await busy.send(request("/busy"))
            await application.asked()
            await half.send(b"GET /half HTTP/1.1\r\nHost: a\r\n")
            await asyncio.sleep(0.02)
            draining = asyncio.ensure_future(listener.drain(10.0))
            assert await idle.closed()
            assert listener.draining
            assert listener.addresses == ()
            with pytest.raises(OSError, match=r"refused|111"):
                await RawClient.connect(address)
            await half.send(b"\r\n")
            await application.asked(2)
            assert not draining.done()
            gate.open.set()
            for client in (busy, half):
                response = await client.response()
                assert (response.status, response.field("Connection")) == (200, "close")
                assert await client.closed()
                await client.close()
            assert await draining


async def test_draining_waits_for_a_body_that_is_still_uploaded(application: ScriptedApplication) -> None:
    application.answer = echo
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/", "Content-Length: 6", method="POST"), b"abc")
        await application.asked()
        draining = asyncio.ensure_future(listener.drain(10.0))
        await asyncio.sleep(0.02)
        await client.send(b"def")
        assert (await client.response()).body == b"abcdef"
        await client.close()
        assert await draining


async def test_draining_cuts_what_does_not_finish(application: ScriptedApplication) -> None:
    stream = ScriptedStream(b"part", asyncio.Event())
    application.respond(Response(200, make_headers(), stream))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request())
        await client.head()
        assert await client.chunk() == b"part"
        assert not await listener.drain(0.05)
        assert await client.closed()
        assert stream.closed == 1
    outcome = await application.outcome()
    assert (outcome.status, outcome.aborted) == (200, True)
    assert list(application.completed.values()) == [1]


async def test_draining_ends_tunnels_and_waiting_requests(application: ScriptedApplication) -> None:
    channel = MemoryChannel()

    async def opener(seen: Request, protocol: str) -> Response | Tunnel:
        return Tunnel(Response(101), protocol, channel)

    application.opener = opener
    application.answer = Gate()
    async with (
        serving(application) as listener,
        await RawClient.connect(listener.addresses[0]) as tunnel,
        await RawClient.connect(listener.addresses[0]) as waiting,
    ):
        await tunnel.send(request("/", "Connection: upgrade", "Upgrade: websocket"))
        await tunnel.head()
        await waiting.send(request())
        await application.asked(2)
        assert not await listener.drain(0.05)
        assert channel.closed.is_set()
        assert application.cancelled == 1
    assert sorted(application.completed.values()) == [1, 1]


async def test_gauges_follow(application: ScriptedApplication) -> None:
    gate = Gate()
    application.answer = gate
    metrics = Registry()

    def read() -> dict[str, object]:
        return {one.name: one.read() for one in metrics.readings() if one.name.startswith("sidecache_server_")}

    async with serving(application, metrics=metrics) as listener:
        client = await RawClient.connect(listener.addresses[0])
        await client.send(request())
        await application.asked()
        assert read() == {
            "sidecache_server_open_connections": 1,
            "sidecache_server_requests_in_flight": 1,
            "sidecache_server_open_tunnels": 0,
        }
        gate.open.set()
        await client.response()
        await client.close()
    assert set(read().values()) == {0}


async def test_address_that_cannot_be_had_is_an_error() -> None:
    listener = Listener(
        ScriptedApplication(), ServerSettings.model_validate({"listen": "203.0.113.1:0"}), SystemClock(), Registry()
    )
    with pytest.raises(OSError, match="assign"):
        await listener.start()
    assert await listener.drain()
