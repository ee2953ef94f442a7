"""Protocol switches."""

import asyncio

import pytest

from proxy.http.channel import Tunnel
from proxy.http.message import Request, Response, make_headers
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import InformationalSender
from tests.support.raw_client import RawClient, request
from tests.support.scripted_application import MemoryChannel, ScriptedApplication, echo, serving, text


class Upstream:
    """Switches to whatever is asked for."""

    def __init__(self) -> None:
        self.channel = MemoryChannel()
        self.protocols: list[str] = []

    async def open(self, seen: Request, protocol: str) -> Response | Tunnel:
        self.protocols.append(protocol)
        return Tunnel(Response(101, make_headers([("Sec-WebSocket-Accept", "x")])), protocol, self.channel)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def application(upstream: Upstream) -> ScriptedApplication:
    return ScriptedApplication(opener=upstream.open)


def switch(protocol: str = "websocket", target: str = "/") -> bytes:
    return request(target, "Connection: keep-alive, Upgrade", f"Upgrade: {protocol}", "Sec-WebSocket-Key: k")


PROTOCOLS = pytest.mark.parametrize("protocol", ["websocket", "WebSocket", "echo", "tcp"])


@PROTOCOLS
async def test_bytes_move_both_ways(application: ScriptedApplication, upstream: Upstream, protocol: str) -> None:
    metrics = Registry()
    async with (
        serving(application, metrics=metrics) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        await client.send(switch(protocol))
        head = await client.head()
        assert head.status == 101
        assert (head.field("Connection"), head.field("Upgrade")) == ("upgrade", protocol)
        assert head.field("Sec-WebSocket-Accept") == "x"
        await client.send(b"ping")
        assert await upstream.channel.received(4) == b"ping"
        await upstream.channel.to_read.put(b"pong!")
        assert await client.read_exactly(5) == b"pong!"
        client.writer.write_eof()
        assert await upstream.channel.ended()
        await upstream.channel.to_read.put(b"bye")
        await upstream.channel.to_read.put(b"")
        assert await client.read_rest() == b"bye"
    outcome = await application.outcome()
    assert (outcome.status, outcome.bytes_sent, outcome.aborted) == (101, 8, False)
    assert upstream.channel.closed.is_set()
    assert upstream.protocols == [protocol]
    assert "Upgrade" not in application.requests[0].headers
    assert "Connection" not in application.requests[0].headers
    assert application.requests[0].headers["Sec-WebSocket-Key"] == "k"
    moved = metrics.counter("sidecache_server_tunnel_bytes", "", ("direction",))
    assert (moved.labels("to_client").value, moved.labels("to_upstream").value) == (8, 4)


@PROTOCOLS
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4, 7], ids=lambda cut: f"cut {cut} before the end")
async def test_bytes_right_behind_the_head_are_not_lost(
    application: ScriptedApplication, upstream: Upstream, protocol: str, cut: int
) -> None:
    head = switch(protocol)
    early = b"early\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        if cut:
            await client.send(head[:-cut])
            await asyncio.sleep(0.02)  # two packets, not one; either way the answer must be the same
        await client.send((head[-cut:] if cut else head) + early)
        assert (await client.head()).status == 101
        assert await upstream.channel.received(len(early)) == early
    assert application.handled == 1


@PROTOCOLS
async def test_bytes_that_come_before_the_upstream_answers_are_not_lost(
    application: ScriptedApplication, upstream: Upstream, protocol: str
) -> None:
    go = asyncio.Event()

    async def opener(seen: Request, protocol: str) -> Response | Tunnel:
        await go.wait()
        return await upstream.open(seen, protocol)

    application.opener = opener
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(switch(protocol))
        await application.asked()
        early = b"0123456789abcdef" * 20_000
        sending = asyncio.ensure_future(client.send(early))
        await asyncio.sleep(0.02)
        go.set()
        assert (await client.head()).status == 101
        assert await upstream.channel.received(len(early)) == early
        await sending


@PROTOCOLS
async def test_refused_switch_is_an_ordinary_response_and_the_connection_goes_on(
    application: ScriptedApplication, protocol: str
) -> None:
    async def opener(seen: Request, protocol: str) -> Response | Tunnel:
        return text("no", 403)

    application.opener = opener
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        for _ in range(3):
            await client.send(switch(protocol))
            assert (await client.response()).body == b"no"
            assert (await client.ask(request("/next"))).body == b"hello"
        await client.send(switch(protocol) + request("/2") + switch(protocol) + request("/3"))
        assert [(await client.response()).body for _ in range(4)] == [b"no", b"hello", b"no", b"hello"]


@pytest.mark.parametrize("protocol", ["h2c", "HTTP/2.0", "TLS/1.2", ""])
async def test_protocol_that_would_evade_the_proxy_is_not_tunnelled(
    application: ScriptedApplication, protocol: str
) -> None:
    async with (
        serving(application, upgrades=["*", "h2c"]) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        await client.send(switch(protocol))
        assert (await client.response()).body == b"hello"
        assert (await client.ask(request("/next"))).body == b"hello"
    assert "Upgrade" not in application.requests[0].headers


async def test_protocols_may_be_listed(application: ScriptedApplication, upstream: Upstream) -> None:
    async with serving(application, upgrades=["WebSocket"]) as listener:
        async with await RawClient.connect(listener.addresses[0]) as client:
            await client.send(switch("echo"))
            assert (await client.response()).body == b"hello"
        async with await RawClient.connect(listener.addresses[0]) as client:
            await client.send(switch("echo, WebSocket"))
            assert (await client.head()).field("Upgrade") == "WebSocket"
    assert upstream.protocols == ["WebSocket"]


async def test_upgrade_without_the_connection_option_is_no_request_to_switch(application: ScriptedApplication) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/", "Upgrade: websocket"))
        assert (await client.response()).body == b"hello"
        await client.send(request("/", "Connection: upgrade"))
        assert (await client.response()).body == b"hello"
        await client.send(request("/", "Connection: upgrade", "Upgrade: websocket", version="1.0"))
        assert (await client.response()).body == b"hello"


async def test_switch_behind_other_requests_in_one_packet_loses_nothing(
    application: ScriptedApplication, upstream: Upstream
) -> None:
    early = b"GET /2 HTTP/1.1\r\nX: "
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/1") + switch("other") + early, b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response()).body == b"hello"
        assert (await client.head()).status == 101
        assert (await upstream.channel.received(len(early))).startswith(early)
    assert [seen.target for seen in application.requests] == ["/1", "/"]


@PROTOCOLS
async def test_switch_behind_a_body_in_one_packet_loses_nothing(
    application: ScriptedApplication, upstream: Upstream, protocol: str
) -> None:
    go = asyncio.Event()

    async def answer(seen: Request, informational: InformationalSender | None) -> Response:
        await go.wait()
        return await echo(seen, informational)

    application.answer = answer
    early = b"GET /3 HTTP/1.1\r\nX: "
    later = b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/1", "Content-Length: 3", method="POST"))
        await application.asked()
        await client.send(b"abc" + switch(protocol, "/2") + early)
        await asyncio.sleep(0.02)
        await client.send(later)
        go.set()
        assert (await client.response()).body == b"abc"
        assert (await client.head()).status == 101
        assert await upstream.channel.received(len(early + later)) == early + later
    assert [seen.target for seen in application.requests] == ["/1", "/2"]


async def test_nothing_is_smuggled_behind_an_upgrade_whose_end_is_uncertain(application: ScriptedApplication) -> None:
    """Alone, aiohttp throws away what follows such a head in the same chunk, and takes the rest for a new request.

    More requests than aiohttp queues make it hold the upgrade back and read it when the server does not look.
    """
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/") * 40 + switch("other", "/up") + b"GET /3 HTTP/1.1\r\nX: ")
        await asyncio.sleep(0.02)
        await client.send(b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(40):
            assert (await client.response()).body == b"hello"
        assert (await client.response()).field("Connection") == "close"
        assert await client.closed()
    assert [seen.target for seen in application.requests] == ["/"] * 40 + ["/up"]


async def test_empty_lines_before_an_upgrade_do_not_confuse(application: ScriptedApplication) -> None:
    async with serving(application) as listener:
        for parts in (
            [b"\r\n\r\n" + switch("other")],
            [b"\r\n", b"\r\n" + switch("other")],
            [b"\r\n\r\n", switch("other")],
        ):
            async with await RawClient.connect(listener.addresses[0]) as client:
                for part in parts:
                    await client.send(part)
                    await asyncio.sleep(0.01)
                await client.send(b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n")
                head = await client.head()
                assert head.status in {101, 200}
                assert head.status == 101 or head.field("Connection") == "close"
    assert "/evil" not in [seen.target for seen in application.requests]


async def test_upgrade_with_a_body_is_answered_without_a_switch(application: ScriptedApplication) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        head = request("/", "Connection: upgrade", "Upgrade: other", "Content-Length: 3", method="POST")
        response = await client.ask(head + b"abc" + request("/evil"))
        assert (response.body, response.field("Connection")) == (b"hello", "close")
        assert await client.closed()
    assert application.requests[0].body == b"abc"
    assert len(application.requests) == 1


async def test_client_that_leaves_ends_the_tunnel(application: ScriptedApplication, upstream: Upstream) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(switch())
        await client.head()
        client.reset()
        await asyncio.wait_for(upstream.channel.closed.wait(), 10)
    assert (await application.outcome()).status == 101


async def test_upstream_that_breaks_ends_the_tunnel(application: ScriptedApplication, upstream: Upstream) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(switch())
        await client.head()
        await upstream.channel.to_read.put(ConnectionResetError("gone"))
        assert await client.closed()
    assert (await application.outcome()).aborted
    assert upstream.channel.closed.is_set()


async def test_silent_tunnel_ends(application: ScriptedApplication, upstream: Upstream) -> None:
    async with (
        serving(application, tunnel_idle_timeout_seconds=0.05) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        await client.send(switch())
        assert (await client.head()).status == 101
        assert await client.closed()
    assert upstream.channel.closed.is_set()


async def test_tunnel_does_not_read_ahead_of_the_upstream(application: ScriptedApplication, upstream: Upstream) -> None:
    upstream.channel.written = asyncio.Queue(maxsize=1)
    size = 20_000_000
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(switch())
        await client.head()
        client.writer.transport.set_write_buffer_limits(0)
        sending = asyncio.ensure_future(client.send(b"x" * size))
        done, _ = await asyncio.wait([sending], timeout=0.3)
        assert not done, "the tunnel took 20 MB that the upstream had not taken"
        assert len(await upstream.channel.received(size)) == size
        await sending


async def test_client_that_leaves_before_the_switch_is_499(
    application: ScriptedApplication, upstream: Upstream
) -> None:
    go = asyncio.Event()

    async def opener(seen: Request, protocol: str) -> Response | Tunnel:
        try:
            await go.wait()
        except asyncio.CancelledError:
            return await upstream.open(seen, protocol)  # it had switched by then
        raise AssertionError

    application.opener = opener
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(switch())
        await application.asked()
        client.reset()
        outcome = await application.outcome()
    assert (outcome.status, outcome.aborted, outcome.first_byte) == (499, True, None)
    assert upstream.channel.closed.is_set()


async def test_switch_whose_head_cannot_be_written_is_broken_off(
    application: ScriptedApplication, upstream: Upstream
) -> None:
    async def opener(seen: Request, protocol: str) -> Response | Tunnel:
        return Tunnel(Response(101, make_headers([("X", "a\r\nb")])), protocol, upstream.channel)

    application.opener = opener
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(switch())
        assert await client.closed()
    assert upstream.channel.closed.is_set()
    assert (await application.outcome()).aborted
