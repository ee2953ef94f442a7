"""The same bytes give the same answers, however the network cuts them."""

import asyncio
import hashlib
import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.http.body import read_body
from proxy.http.message import Request, Response, make_headers
from proxy.pipeline.exchange import InformationalSender
from tests.support.raw_client import RawClient, request
from tests.support.scripted_application import ScriptedApplication, ScriptedStream, serving, text

EMPTY_LINES = b"\r\n\r\n"
REQUESTS = [
    request("/a%2Fb?x=1#y", "X-A: 1"),
    EMPTY_LINES + request("/after-empty-lines"),
    request("/", "Content-Length: 30", method="POST") + b"GET /evil HTTP/1.1\r\n\r\n" + b"12345678",
    request("/", "Transfer-Encoding: chunked", method="PUT") + b"4;a=b\r\n\r\n\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
    request("/stream"),
    request("/head", method="HEAD"),
    request("/refused", "Connection: upgrade", "Upgrade: other"),
    request("/refused", "Connection: upgrade", "Upgrade: websocket"),
    request("/h2c", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x"),
    request("/bad-host", host="a b"),
    request("/", "Content-Length: 0", method="DELETE"),
]
LAST = [
    request("/end", "Connection: close"),
    request("/end", version="1.0"),
    b"NONSENSE / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
]


async def answer(seen: Request, informational: InformationalSender | None) -> Response:
    body = await read_body(seen.body, 1_000_000) or b""
    account = f"{seen.method} {seen.target} {seen.host} {sorted(seen.headers)} ".encode() + body
    digest = hashlib.sha256(account).hexdigest().encode()
    if seen.target == "/stream":
        return Response(200, make_headers(), ScriptedStream(digest, b"", digest))
    return text(digest, date="Thu, 01 Jan 1970 00:00:00 GMT")


async def answers_to(data: bytes, cuts: list[int]) -> bytes:
    """Everything that the server sends to `data`, but for dates and request ids."""
    application = ScriptedApplication(answer)
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        places = [0, *sorted({cut % len(data) for cut in cuts}), len(data)]
        for begin, end in itertools.pairwise(places):
            client.writer.write(data[begin:end])
            await asyncio.sleep(0.001)
        received = await client.read_rest()
    lines = received.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(b"Date: "))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    chosen=st.lists(st.sampled_from(REQUESTS), max_size=5),
    last=st.sampled_from(LAST),
    cuts=st.lists(st.integers(min_value=0, max_value=10_000), max_size=30),
)
async def test_cuts_do_not_matter(chosen: list[bytes], last: bytes, cuts: list[int]) -> None:
    data = b"".join([*chosen, last])
    assert await answers_to(data, cuts) == await answers_to(data, [])


async def test_single_bytes_are_enough() -> None:
    for last in LAST[:2]:
        data = b"".join([*REQUESTS, last])
        whole = await answers_to(data, [])
        assert whole.count(b"HTTP/1.1 ") == len(REQUESTS) + 1
        assert await answers_to(data, list(range(len(data)))) == whole
