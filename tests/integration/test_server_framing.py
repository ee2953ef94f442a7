"""How responses are framed for the request and the client at hand (RFC 9112 §6)."""

import asyncio

import pytest

from proxy.http.message import Request, Response, make_headers
from proxy.pipeline.exchange import InformationalSender
from tests.support.raw_client import RawClient, request
from tests.support.scripted_application import ScriptedApplication, ScriptedStream, echo, serving, text


@pytest.fixture
def application() -> ScriptedApplication:
    return ScriptedApplication()


def stream(*parts: bytes, **fields: str) -> Response:
    return Response(200, text("", 200, **fields).headers, ScriptedStream(*parts))


async def test_head_has_the_length_and_no_body(application: ScriptedApplication) -> None:
    application.respond(text("hello"), text("", content_length="1234"), stream(b"never"), text(""))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        responses = [await client.ask(request(method="HEAD"), method="HEAD") for _ in range(4)]
        assert [response.field("Content-Length") for response in responses] == ["5", "1234", None, None]
        assert [response.field("Transfer-Encoding") for response in responses] == [None] * 4


async def test_stream_that_head_does_not_need_is_closed_unread(application: ScriptedApplication) -> None:
    body = ScriptedStream(b"never")
    application.respond(Response(200, make_headers(), body))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.ask(request(method="HEAD"), method="HEAD")
        await application.outcome()
    assert (body.read, body.closed) == (0, 1)


@pytest.mark.parametrize("status", [204, 304])
async def test_bodiless_status_has_no_body_and_the_connection_goes_on(
    application: ScriptedApplication, status: int
) -> None:
    application.respond(text("must not be sent", status), text("next"))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(request())
        assert (response.status, response.field("Content-Length"), response.field("Transfer-Encoding")) == (
            status, None, None,
        )  # fmt: skip
        assert (await client.ask(request())).body == b"next"


async def test_304_keeps_the_length_of_what_was_not_modified_and_204_has_none(application: ScriptedApplication) -> None:
    application.respond(text("", 304, content_length="77"), text("", 204, content_length="77"))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        assert (await client.ask(request())).field("Content-Length") == "77"
        assert (await client.ask(request())).field("Content-Length") is None


async def test_stream_with_length_is_sent_with_it(application: ScriptedApplication) -> None:
    application.respond(stream(b"abc", b"de", content_length="5"))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(request())
        assert (response.body, response.chunked, response.field("Content-Length")) == (b"abcde", False, "5")
        assert (await client.ask(request(method="HEAD"), method="HEAD")).status == 200


async def test_bytes_decide_their_length(application: ScriptedApplication) -> None:
    application.respond(text("hello", content_length="3"))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        assert (await client.ask(request())).body == b"hello"


@pytest.mark.parametrize(("length", "parts"), [("5", [b"abc"]), ("2", [b"a", b"bc"])], ids=["short", "long"])
async def test_stream_that_is_not_of_its_length_is_broken_off(
    application: ScriptedApplication, length: str, parts: list[bytes]
) -> None:
    application.respond(stream(*parts, content_length=length))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request())
        await client.head()
        assert len(await client.read_rest()) < int(length)
    outcome = await application.outcome()
    assert outcome.aborted
    assert outcome.error is not None


async def test_http_1_0_gets_a_stream_up_to_the_end_of_the_connection(application: ScriptedApplication) -> None:
    application.respond(stream(b"abc", b"de"))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(request(version="1.0"))
        assert (response.body, response.chunked, response.field("Content-Length")) == (b"abcde", False, None)
        assert response.field("Connection") == "close"


async def test_http_1_0_stream_that_fails_ends_in_a_reset(application: ScriptedApplication) -> None:
    go = asyncio.Event()
    application.respond(Response(200, make_headers(), ScriptedStream(b"abc", go, RuntimeError("broken plugin"))))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request(version="1.0"))
        await client.head()
        assert await client.read_exactly(3) == b"abc"
        go.set()
        with pytest.raises(ConnectionResetError):
            await client.read_rest()
    assert (await application.outcome()).aborted


async def test_http_1_0_keeps_the_connection_only_when_asked(application: ScriptedApplication) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(request("/", "Connection: keep-alive", version="1.0"))
        assert response.field("Connection") == "keep-alive"
        assert (await client.ask(request(version="1.0"))).field("Connection") == "close"
        assert await client.closed()


async def test_connection_close_is_answered_and_done(application: ScriptedApplication) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(request("/", "Connection: close"))
        assert response.field("Connection") == "close"
        assert await client.closed()


async def test_pipelined_requests_are_answered_in_order(application: ScriptedApplication) -> None:
    application.answer = echo
    heads = [request("/", "Content-Length: 1", method="POST") + b"%d" % number for number in range(10)]
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(b"".join(heads))
        assert [(await client.response()).body for _ in heads] == [b"%d" % number for number in range(10)]


async def test_more_pipelined_requests_than_are_queued_are_all_answered(application: ScriptedApplication) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(b"".join(request(f"/{number}") for number in range(200)))
        for _ in range(200):
            assert (await client.response()).status == 200
    assert [seen.target for seen in application.requests] == [f"/{number}" for number in range(200)]


async def test_reason_phrase_is_passed_on_or_the_usual_one(application: ScriptedApplication) -> None:
    application.respond(Response(200, reason="Très bien"), text("", 418), text("", 299))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        reasons = [(await client.ask(request())).reason for _ in range(3)]
    assert reasons == ["Très bien", "I'm a Teapot", ""]


async def test_hop_by_hop_fields_of_a_response_are_the_servers_own(application: ScriptedApplication) -> None:
    headers = make_headers([("Connection", "x"), ("Transfer-Encoding", "gzip"), ("Keep-Alive", "9"), ("Upgrade", "y")])
    application.respond(Response(200, headers, b"hello"))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(request())
        assert response.body == b"hello"
        assert not {"Connection", "Transfer-Encoding", "Keep-Alive", "Upgrade"} & {name for name, _ in response.fields}


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1", "a\nb", "a\rb", "a\0b"])
async def test_line_break_in_a_response_field_is_never_sent(application: ScriptedApplication, value: str) -> None:
    application.respond(Response(200, make_headers([("X-A", value)]), b"secret"), text("next"))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(request())
        assert response.status == 500
        assert response.field("Content-Type") == "application/problem+json"
        assert response.field("X-Injected") is None
        assert b"secret" not in response.body
        assert (await client.ask(request())).body == b"next"
    assert (await application.outcome()).status == 500


async def test_malformed_content_length_of_a_stream_is_a_500(application: ScriptedApplication) -> None:
    body = ScriptedStream(b"abc")
    application.respond(Response(200, make_headers([("Content-Length", "3, 4")]), body))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        assert (await client.ask(request())).status == 500
    assert body.closed == 1


async def test_informational_responses_come_before_the_final_one(application: ScriptedApplication) -> None:
    late: list[InformationalSender] = []

    async def answer(seen: Request, informational: InformationalSender | None) -> Response:
        assert informational is not None
        await informational(103, make_headers([("Link", "</a.css>; rel=preload")]))
        await informational(100, make_headers())  # nobody waits for it
        await informational(101, make_headers())  # no switch was asked for
        await informational(103, make_headers([("Link", "</b.css>; rel=preload")]))
        late.append(informational)
        return text("final")

    application.answer = answer
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request())
        hints = [await client.head(), await client.head()]
        assert [hint.status for hint in hints] == [103, 103]
        assert [hint.field("Link") for hint in hints] == ["</a.css>; rel=preload", "</b.css>; rel=preload"]
        assert (await client.response()).body == b"final"
        await late[0](103, make_headers())
        assert (await client.ask(request(version="1.0"))).body == b"final"
        assert await client.closed()


async def test_large_bytes_reach_a_slow_reader(application: ScriptedApplication) -> None:
    body = bytes(range(256)) * 16_384
    application.respond(text(body))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        assert (await client.ask(request())).body == body
        assert (await client.ask(request())).body == body


async def test_application_that_breaks_its_promise_is_a_500(application: ScriptedApplication) -> None:
    async def answer(seen: Request, informational: InformationalSender | None) -> Response:
        raise RuntimeError("secret")

    application.answer = answer
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        for _ in range(2):
            response = await client.ask(request())
            assert response.status == 500
            assert response.field("Content-Type") == "application/problem+json"
            assert b"secret" not in response.body


async def test_informational_response_that_cannot_be_written_is_left_out(application: ScriptedApplication) -> None:
    async def answer(seen: Request, informational: InformationalSender | None) -> Response:
        assert informational is not None
        await informational(103, make_headers([("Link", "a\r\nb")]))
        return text("final")

    application.answer = answer
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request())
        assert (await client.head()).status == 200


async def test_client_that_pipelines_behind_the_last_response_still_gets_it(application: ScriptedApplication) -> None:
    """Closing at once with unread input would send a reset that overtakes the response (RFC 9112 §9.6)."""
    go = asyncio.Event()
    large = bytes(3_000_000)

    async def answer(seen: Request, informational: InformationalSender | None) -> Response:
        await go.wait()
        return text(large)

    application.answer = answer
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request())
        await application.asked()
        draining = asyncio.ensure_future(listener.drain(10.0))
        await asyncio.sleep(0.01)
        go.set()
        await client.send(request() * 100)
        response = await client.response()
        assert (response.body, response.field("Connection")) == (large, "close")
        assert await client.closed()
        await client.close()
        assert await draining
