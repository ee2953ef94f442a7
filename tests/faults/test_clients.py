"""Clients that leave, stall, or do not read."""

import asyncio

import pytest
from typing_extensions import override

from proxy.http.body import BodyStream
from proxy.http.message import Request, Response, make_headers
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import InformationalSender
from tests.support.raw_client import RawClient, request
from tests.support.scripted_application import ScriptedApplication, ScriptedStream, echo, serving, text


@pytest.fixture
def application() -> ScriptedApplication:
    return ScriptedApplication()


class EndlessStream(BodyStream):
    """A body without an end."""

    def __init__(self) -> None:
        self.read_bytes = 0
        self.closed = asyncio.Event()

    @override
    async def __anext__(self) -> bytes:
        self.read_bytes += 65_536
        return bytes(65_536)

    @override
    async def aclose(self) -> None:
        self.closed.set()


LEAVE = pytest.mark.parametrize("leave", ["close", "reset", "half-close"])


async def go_away(client: RawClient, how: str) -> None:
    if how == "close":
        await client.close()
    elif how == "reset":
        client.reset()
    else:
        client.writer.write_eof()


@LEAVE
async def test_client_that_leaves_cancels_the_wait_for_a_slow_upstream(
    application: ScriptedApplication, leave: str
) -> None:
    never = asyncio.Event()

    async def answer(seen: Request, informational: InformationalSender | None) -> Response:
        await never.wait()
        raise AssertionError

    application.answer = answer
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request())
        await application.asked()
        await go_away(client, leave)
        outcome = await application.outcome()
    assert (outcome.status, outcome.aborted) == (499, True)
    assert application.cancelled == 1


@LEAVE
async def test_client_that_leaves_ends_a_stream_that_waits(application: ScriptedApplication, leave: str) -> None:
    stream = ScriptedStream(b"one", asyncio.Event())
    application.respond(Response(200, make_headers(), stream))
    metrics = Registry()
    async with (
        serving(application, metrics=metrics) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        await client.send(request())
        await client.head()
        await client.chunk()
        await go_away(client, leave)
        outcome = await application.outcome()
    assert (outcome.status, outcome.bytes_sent, outcome.aborted, outcome.error) == (200, 3, True, None)
    assert stream.closed == 1
    assert metrics.counter("sidecache_server_aborted_responses", "", ("by",)).labels("client").value == 1


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_client_that_leaves_ends_an_endless_download(application: ScriptedApplication, leave: str) -> None:
    stream = EndlessStream()
    application.respond(Response(200, make_headers(), stream))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request())
        await client.head()
        await go_away(client, leave)
        await asyncio.wait_for(stream.closed.wait(), 10)
        assert (await application.outcome()).aborted


@LEAVE
async def test_client_that_leaves_within_its_body_is_noticed(application: ScriptedApplication, leave: str) -> None:
    application.answer = echo
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/", "Content-Length: 10", method="POST"), b"abc")
        await application.asked()
        await go_away(client, leave)
        outcome = await application.outcome()
    assert (outcome.status, outcome.aborted) == (499, True)
    assert list(application.completed.values()) == [1]


async def test_client_that_does_not_read_is_cut_after_the_write_timeout(application: ScriptedApplication) -> None:
    stream = EndlessStream()
    application.respond(Response(200, make_headers(), stream))
    metrics = Registry()
    async with serving(application, metrics=metrics, write_timeout_seconds=0.2) as listener:
        client = await RawClient.connect(listener.addresses[0], receive_buffer_bytes=4096)
        await client.send(request())
        await asyncio.wait_for(stream.closed.wait(), 10)
        outcome = await application.outcome()
        assert outcome.aborted
        assert stream.read_bytes < 20_000_000, "back-pressure reaches the body"
        with pytest.raises(ConnectionError):
            await client.read_rest()
        await client.close()


async def test_client_that_reads_slowly_is_not_cut(application: ScriptedApplication) -> None:
    body = bytes(3_000_000)
    application.respond(text(body))
    async with serving(application, write_timeout_seconds=0.5) as listener:
        client = await RawClient.connect(listener.addresses[0], receive_buffer_bytes=65_536)
        await client.send(request())
        await client.read_until(b"\r\n\r\n")
        received = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        while received < len(body):
            received += len(await client.reader.read(100_000))
            await asyncio.sleep(0.04)
        assert loop.time() - began > 1.0
        assert not (await application.outcome()).aborted
        await client.close()


async def test_client_that_never_reads_its_last_response_is_cut(application: ScriptedApplication) -> None:
    """The response is all in the server's buffers, and the connection closes behind it: nobody waits any more."""
    application.respond(text(bytes(60_000)))
    async with serving(application, write_timeout_seconds=0.5, keep_alive_timeout_seconds=0.5) as listener:
        client = await RawClient.connect(listener.addresses[0], receive_buffer_bytes=4096)
        await client.send(b"".join(request("/") for _ in range(200)))
        await application.asked(2)
        await listener._protocols.wait_until_empty()
        await client.close()


async def test_client_that_leaves_between_pipelined_requests_ends_them_all(application: ScriptedApplication) -> None:
    never = asyncio.Event()

    async def answer(seen: Request, informational: InformationalSender | None) -> Response:
        await never.wait()
        raise AssertionError

    application.answer = answer
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/1") + request("/2") + request("/3"))
        await application.asked()
        client.reset()
        await application.outcome()
    assert [seen.target for seen in application.requests] == ["/1"]


async def test_each_exchange_is_completed_once_whatever_clients_do(application: ScriptedApplication) -> None:
    async def answer(seen: Request, informational: InformationalSender | None) -> Response:
        if seen.target == "/stream":
            return Response(200, make_headers(), ScriptedStream(*[bytes(10_000)] * 50))
        return await echo(seen, informational)

    application.answer = answer
    async with serving(application) as listener:

        async def visit(number: int) -> None:
            client = await RawClient.connect(listener.addresses[0])
            kind = number % 4
            if kind == 0:
                await client.send(request("/stream"))
                client.reset()
            elif kind == 1:
                await client.send(request("/", "Content-Length: 5", method="POST"), b"ab")
                client.reset()
            elif kind == 2:
                await client.send(request("/stream"))
                await client.response()
            else:
                await client.send(request("/", "Content-Length: 2", method="POST") + b"ab")
                await client.response()
            await client.close()

        await asyncio.gather(*[visit(number) for number in range(80)])
        await listener.drain(5.0)
    assert len(application.outcomes) == application.handled
    assert set(application.completed.values()) == {1}
    assert sum(not outcome.aborted for outcome in application.outcomes) >= 40
