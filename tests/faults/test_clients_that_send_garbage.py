"""Damaged requests: answered or refused, never a hang, never an error of ours."""

import asyncio
import random

import pytest

from proxy.errors import ClientError
from proxy.http.body import read_body
from proxy.http.message import Request, Response
from proxy.pipeline.exchange import InformationalSender
from tests.support.raw_client import RawClient, request
from tests.support.scripted_application import ScriptedApplication, serving, text

WHOLE = [
    request("/a", "X: 1"),
    request("/", "Content-Length: 5", method="POST") + b"hello",
    request("/", "Transfer-Encoding: chunked", method="PUT") + b"3\r\nabc\r\n0\r\n\r\n",
    request("/", "Connection: upgrade", "Upgrade: other"),
    request("/", "Connection: upgrade", "Upgrade: websocket"),
    request("/", "Expect: 100-continue", "Content-Length: 3", method="POST"),
    b"\r\n",
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
]


async def answer(seen: Request, informational: InformationalSender | None) -> Response:
    try:
        return text(await read_body(seen.body, 1_000_000) or b"")
    except ClientError as error:
        return text(error.detail, error.status_hint)


def damaged(chance: random.Random) -> bytes:
    data = bytearray(b"".join(chance.choices(WHOLE, k=chance.randint(1, 6))))
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        place = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                del data[place : place + chance.randrange(1, 8)]
            case 2:
                data[place:place] = bytes(chance.choices(b"\r\n :;,0a\x00\xff", k=chance.randrange(1, 6)))
            case _:
                data[place:place] = data[place : place + 20]
        data = data or bytearray(b"x")
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
async def test_every_connection_ends_and_every_exchange_is_accounted_for(seed: int) -> None:
    chance = random.Random(seed)
    troubles: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    application = ScriptedApplication(answer)

    async with serving(
        application, body_timeout_seconds=0.3, header_timeout_seconds=0.3, keep_alive_timeout_seconds=0.3
    ) as listener:

        async def visit(data: bytes, cut: int) -> None:
            client = await RawClient.connect(listener.addresses[0])
            try:
                client.writer.write(data[:cut])
                await asyncio.sleep(0.002)
                client.writer.write(data[cut:])
                await client.read_rest()  # raises TimeoutError when the server leaves the connection open
            except (ConnectionError, RuntimeError):
                pass  # a reset; uvloop calls writing behind one a RuntimeError
            finally:
                await client.close()

        visits = [damaged(chance) for _ in range(60)]
        await asyncio.gather(*[visit(data, chance.randrange(len(data))) for data in visits])
        await listener.drain(5.0)
    assert troubles == []
    assert len(application.outcomes) == application.handled
    assert set(application.completed.values()) <= {1}
