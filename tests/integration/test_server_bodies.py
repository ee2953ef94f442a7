"""Request bodies: expected, limited, unread, malformed."""

import asyncio

import pytest

from proxy.errors import ClientError
from proxy.http.body import BodyStream
from proxy.http.message import Request, Response, make_headers
from proxy.pipeline.exchange import InformationalSender
from tests.support.raw_client import RawClient, request
from tests.support.scripted_application import ScriptedApplication, echo, serving, text


@pytest.fixture
def application() -> ScriptedApplication:
    return ScriptedApplication()


async def report_errors(request: Request, informational: InformationalSender | None) -> Response:
    """What the pipeline does with an error of the body."""
    try:
        return await echo(request, informational)
    except ClientError as error:
        return text(error.detail, error.status_hint)


async def test_continue_is_sent_when_the_body_is_first_read(application: ScriptedApplication) -> None:
    go = asyncio.Event()

    async def answer(seen: Request, informational: InformationalSender | None) -> Response:
        await go.wait()
        return await echo(seen, informational)

    application.answer = answer
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/", "Content-Length: 3", "Expect: 100-Continue", method="POST"))
        early = asyncio.ensure_future(client.reader.read(1))
        await application.asked()
        assert not early.done()
        go.set()
        first = await asyncio.wait_for(early, 10)
        assert first + await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        assert (await client.response()).body == b"abc"
        assert application.requests[0].headers["Expect"] == "100-Continue", "the upstream may refuse before the body"


async def test_an_expectation_without_a_wait_is_not_passed_on(application: ScriptedApplication) -> None:
    application.answer = echo
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/", "Content-Length: 3", "Expect: 100-continue", method="POST") + b"abc")
        assert (await client.response()).body == b"abc"
        await client.send(request("/", "Expect: 100-continue"))
        assert (await client.response()).status == 200
    assert all("Expect" not in seen.headers for seen in application.requests)


async def test_continue_is_sent_when_the_upstream_asks_for_it(application: ScriptedApplication) -> None:
    async def answer(seen: Request, informational: InformationalSender | None) -> Response:
        assert informational is not None
        await informational(100, make_headers())
        await informational(100, make_headers())
        return await echo(seen, informational)

    application.answer = answer
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert (await client.head()).status == 100
        await client.send(b"abc")
        assert await client.read_until(b"\r\n") == b"HTTP/1.1 200 OK\r\n"


async def test_continue_is_not_sent_to_who_did_not_wait(application: ScriptedApplication) -> None:
    application.answer = echo
    head = request("/", "Content-Length: 3", "Expect: 100-continue", method="POST")
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(head + b"abc")
        assert await client.read_until(b"\r\n") == b"HTTP/1.1 200 OK\r\n"


async def test_final_answer_without_continue_ends_the_connection(application: ScriptedApplication) -> None:
    application.respond(text("no", 403))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(request("/", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert (response.status, response.field("Connection")) == (403, "close")
        assert await client.closed()


async def test_declared_length_over_the_limit_is_413(application: ScriptedApplication) -> None:
    async with serving(application, max_body_bytes=10) as listener:
        async with await RawClient.connect(listener.addresses[0]) as client:
            response = await client.ask(request("/", "Content-Length: 11", method="POST"))
            assert (response.status, response.field("Connection")) == (413, "close")
            assert response.field("Content-Type") == "application/problem+json"
            assert await client.closed()
        async with await RawClient.connect(listener.addresses[0]) as client:
            assert (await client.ask(request("/", "Content-Length: 10", method="POST") + b"x" * 10)).status == 200
    assert application.handled == 1


@pytest.mark.parametrize("parts", [[b"b\r\n01234567890\r\n0\r\n\r\n"], [b"9\r\n012345678\r\n", b"2\r\n01\r\n"]])
async def test_chunks_over_the_limit_are_413(application: ScriptedApplication, parts: list[bytes]) -> None:
    application.answer = report_errors
    async with (
        serving(application, max_body_bytes=10) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        response = await client.ask(request("/", "Transfer-Encoding: chunked", method="POST"), *parts)
        assert response.status == 413


async def test_small_unread_body_is_read_away_and_the_connection_goes_on(application: ScriptedApplication) -> None:
    application.respond(text("early"), text("next"))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        assert (await client.ask(request("/", "Content-Length: 20", method="POST"))).body == b"early"
        await client.send(b"GET /evil HTTP/1.1\r\n", request("/2"))
        assert (await client.response()).body == b"next"
    assert [seen.target for seen in application.requests] == ["/", "/2"]


async def test_large_unread_body_ends_the_connection(application: ScriptedApplication) -> None:
    application.respond(text("early"))
    async with (
        serving(application, max_unread_body_bytes=100) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        response = await client.ask(request("/", "Content-Length: 101", method="POST"))
        assert (response.body, response.field("Connection")) == (b"early", "close")
        await client.send(b"x" * 101 + request("/evil"))
        assert await client.closed()
    assert application.handled == 1


async def test_unread_chunked_body_ends_the_connection(application: ScriptedApplication) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(request("/", "Transfer-Encoding: chunked", method="POST"))
        assert response.field("Connection") == "close"
        assert await client.closed()


async def test_client_that_goes_on_sending_still_gets_the_refusal(application: ScriptedApplication) -> None:
    """Closing with unread input would send a reset that overtakes the response (RFC 9112 §9.6)."""
    async with (
        serving(application, max_body_bytes=10) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        await client.send(request("/", "Content-Length: 2000000", method="POST"))
        await client.send(*[b"x" * 100_000] * 20)
        assert (await client.response()).status == 413
        assert await client.closed()


async def test_body_that_has_arrived_is_bytes_and_a_larger_one_a_stream(application: ScriptedApplication) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.ask(request("/", "Content-Length: 3", method="POST") + b"abc")
        assert application.requests[0].body == b"abc"
        await client.ask(request("/", "Transfer-Encoding: chunked", method="POST") + b"1\r\nx\r\n0\r\n\r\n")
        assert application.requests[1].body == b"x"
        assert "Transfer-Encoding" not in application.requests[1].headers
        await client.ask(request("/", "Content-Length: 3", method="POST"), b"ab", b"c")
        assert isinstance(application.requests[2].body, BodyStream)


@pytest.mark.parametrize("rest", [b"nonsense\r\n", b"3\r\nabcd\r\n", b"-1\r\n"])
async def test_malformed_chunk_ends_the_body_and_the_connection(application: ScriptedApplication, rest: bytes) -> None:
    application.answer = report_errors
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/", "Transfer-Encoding: chunked", method="POST"), b"1\r\nx\r\n")
        await application.asked()
        response = await client.ask(rest)
        assert (response.status, response.field("Connection")) == (400, "close")
        assert await client.closed()


async def test_body_that_stops_arriving_is_408(application: ScriptedApplication) -> None:
    application.answer = report_errors
    async with (
        serving(application, body_timeout_seconds=0.05) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        response = await client.ask(request("/", "Content-Length: 10", method="POST"), b"abc")
        assert (response.status, response.field("Connection")) == (408, "close")


async def test_unread_body_that_stops_arriving_ends_the_connection(application: ScriptedApplication) -> None:
    async with (
        serving(application, body_timeout_seconds=0.05) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        assert (await client.ask(request("/", "Content-Length: 10", method="POST"), b"abc")).status == 200
        assert await client.closed()


async def test_body_is_not_read_ahead_of_who_takes_it(application: ScriptedApplication) -> None:
    go = asyncio.Event()

    async def answer(seen: Request, informational: InformationalSender | None) -> Response:
        await go.wait()
        return await echo(seen, informational)

    application.answer = answer
    size = 20_000_000
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/", f"Content-Length: {size}", method="POST"))
        client.writer.transport.set_write_buffer_limits(0)
        sending = asyncio.ensure_future(client.send(b"x" * size))
        await application.asked()
        done, _ = await asyncio.wait([sending], timeout=0.3)
        assert not done, "the server took 20 MB that nobody had asked for"
        go.set()
        assert len((await client.response()).body) == size
        await sending
