"""Requests that never reach the application."""

import json

import pytest

from proxy.metrics.registry import Registry
from tests.support.raw_client import RawClient, request
from tests.support.scripted_application import ScriptedApplication, serving


@pytest.fixture
def application() -> ScriptedApplication:
    return ScriptedApplication()


HOST = b"Host: a\r\n"
CASES = {
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
    "empty host": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "host with userinfo": (400, b"GET / HTTP/1.1\r\nHost: me@a\r\n\r\n"),
    "host with path": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "host list": (400, b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    "host with bad port": (400, b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n"),
    "host that is no utf-8": (400, b"GET / HTTP/1.1\r\nHost: a\xff\r\n\r\n"),
    "space before colon": (400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    "folded field": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n"),
    "nul in a field": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n"),
    "bare line feeds": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "length and coding": (
        400,
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    "two lengths": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "signed length": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\na"),
    "chunked with http/1.0": (400, b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "target of another scheme": (400, b"GET ftp://a/b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target with userinfo": (400, b"GET http://me@a/b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target with a control character": (400, b"GET /\x01 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "tls to a plain port": (501, b"\x16\x03\x01\x02\x00\x01\x00"),
    "unknown method": (501, b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "connect": (501, b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "unknown coding": (501, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "http/0.9": (505, b"GET /\r\n\r\n"),
    "http/2 in disguise": (505, b"GET / HTTP/2.0\r\n" + HOST + b"\r\n"),
    "http/2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "long target": (414, b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "long field": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20_000 + b"\r\n\r\n"),
    "long field name": (431, b"GET / HTTP/1.1\r\n" + HOST + b"a" * 20_000 + b": x\r\n\r\n"),
    "many fields": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 200 + b"\r\n"),
}


@pytest.mark.parametrize(("status", "data"), CASES.values(), ids=CASES)
async def test_request_is_refused_with_a_problem_document(
    application: ScriptedApplication, status: int, data: bytes
) -> None:
    metrics = Registry()
    async with (
        serving(application, metrics=metrics) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        response = await client.ask(data)
        assert response.status == status
        assert response.field("Content-Type") == "application/problem+json"
        assert json.loads(response.body)["status"] == status
        assert b"aiohttp" not in response.body
        assert b"Traceback" not in response.body
    assert application.handled == 0
    refused = metrics.counter("sidecache_server_refused_requests", "", ("status",))
    assert {labels: counter.value for labels, counter in refused.members.items()} == {(str(status),): 1}


async def test_connection_closes_behind_a_request_that_was_not_understood(application: ScriptedApplication) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n" + request("/evil"))
        assert response.field("Connection") == "close"
        assert await client.closed()
    assert application.handled == 0


async def test_connection_goes_on_behind_a_request_that_was_understood(application: ScriptedApplication) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        assert (await client.ask(request("/", host="a/b"))).status == 400
        assert (await client.ask(request("/"))).status == 200


async def test_requests_before_a_malformed_one_are_answered(application: ScriptedApplication) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        assert (await client.ask(request("/"))).status == 200
        assert (await client.ask(b"nonsense\r\n\r\n")).status == 501
        assert await client.closed()


async def test_limits_are_settings(application: ScriptedApplication) -> None:
    async with serving(application, max_target_bytes=64, max_field_bytes=100, max_fields=5) as listener:
        for status, data in [
            (200, request("/" + "a" * 63)),
            (414, request("/" + "a" * 64)),
            (200, request("/", "X: " + "a" * 90)),
            (431, request("/", "X: " + "a" * 101)),
            (200, request("/", *["X: a"] * 4)),
            (431, request("/", *["X: a"] * 5)),
        ]:
            async with await RawClient.connect(listener.addresses[0]) as client:
                assert (await client.ask(data)).status == status, data


async def test_clients_above_the_limit_are_answered_503(application: ScriptedApplication) -> None:
    async with serving(application, max_connections=2) as listener:
        async with (
            await RawClient.connect(listener.addresses[0]) as first,
            await RawClient.connect(listener.addresses[0]) as second,
        ):
            assert (await first.ask(request())).status == 200
            assert (await second.ask(request())).status == 200
            async with await RawClient.connect(listener.addresses[0]) as third:
                response = await third.response()
                assert (response.status, response.field("Connection")) == (503, "close")
                assert await third.closed()
        async with await RawClient.connect(listener.addresses[0]) as fourth:
            assert (await fourth.ask(request())).status == 200
