"""The demo API does what the demo, the load test and the documentation say it does."""

import asyncio
import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from deploy.demo.api import ASSET, make_app

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def api(item_count: int = 50) -> AsyncIterator["TestClient[aiohttp.web.Request, aiohttp.web.Application]"]:
    async with TestClient(TestServer(make_app(item_count))) as client:
        yield client


async def test_pages_are_public_tagged_and_have_a_validator() -> None:
    async with api() as client:
        response = await client.get("/items?page=2&per_page=10")
        content = await response.json()
    assert response.headers["Cache-Control"] == "public, max-age=60"
    assert response.headers["Cache-Tag"] == response.headers["Surrogate-Key"] == "items"
    assert response.headers["ETag"].startswith('"')
    assert [item["id"] for item in content["items"]] == list(range(11, 21))
    assert content["total"] == 50


async def test_a_category_narrows_the_list() -> None:
    async with api() as client:
        content = await (await client.get("/items?category=books&per_page=100")).json()
    assert 0 < content["total"] < 50
    assert {item["category"] for item in content["items"]} == {"books"}


@pytest.mark.parametrize("query", ["page=x", "page=nan", "per_page="])
async def test_a_query_that_is_no_number_is_the_clients_mistake(query: str) -> None:
    async with api() as client:
        assert (await client.get(f"/items?{query}")).status == 400


async def test_item_has_both_validators_and_each_gives_304() -> None:
    async with api() as client:
        whole = await client.get("/items/7")
        for field, value in (
            ("If-None-Match", whole.headers["ETag"]),
            ("If-None-Match", f'"other", W/{whole.headers["ETag"]}'),
            ("If-None-Match", "*"),
            ("If-Modified-Since", whole.headers["Last-Modified"]),
        ):
            response = await client.get("/items/7", headers={field: value})
            assert response.status == 304, (field, value)
            assert response.headers["ETag"] == whole.headers["ETag"]
            assert await response.read() == b""


async def test_an_entity_tag_that_differs_outweighs_the_date() -> None:
    async with api() as client:
        modified = (await client.get("/items/7")).headers["Last-Modified"]
        response = await client.get("/items/7", headers={"If-None-Match": '"old"', "If-Modified-Since": modified})
        assert response.status == 200


async def test_a_date_that_cannot_be_read_is_ignored() -> None:
    async with api() as client:
        assert (await client.get("/items/7", headers={"If-Modified-Since": "yesterday"})).status == 200


async def test_a_change_shows_in_both_validators_at_once() -> None:
    async with api() as client:
        before = await client.get("/items/7")
        changed = await client.put("/items/7", json={"stock": 3, "name": "new name"})
        after = await client.get("/items/7")
        content = await after.json()
    assert changed.status == 200
    assert changed.headers["Cache-Group-Invalidation"] == '"listings"'
    assert (content["stock"], content["name"], content["version"]) == (3, "new name", 2)
    assert after.headers["ETag"] != before.headers["ETag"]
    assert after.headers["Last-Modified"] != before.headers["Last-Modified"]


async def test_an_item_lives_from_post_to_delete() -> None:
    async with api() as client:
        added = await client.post("/items", json={"name": "spade", "category": "garden", "price_pence": 1250})
        location = added.headers["Location"]
        assert (added.status, location) == (201, "/items/51")
        assert (await (await client.get(location)).json())["name"] == "spade"
        assert (await client.delete(location)).status == 204
        assert (await client.get(location)).status == 404
        assert (await client.delete(location)).status == 404
        assert (await client.patch(location, json={"stock": 1})).status == 404


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        '{"nmae": "x"}',
        '{"name": ""}',
        '{"name": "x", "stock": -1}',
        '{"name": "x", "stock": true}',
        '{"stock": 1}',
    ],
)
async def test_a_body_that_makes_no_item_is_refused(body: str) -> None:
    async with api() as client:
        response = await client.post("/items", data=body)
        assert response.status == 422
        assert response.content_type == "application/problem+json"


async def test_every_response_has_the_next_number() -> None:
    async with api() as client:
        numbers = [
            int((await client.get(path)).headers["X-Origin-Request"])
            for path in ("/", "/items/7", "/items/9999", "/no-such-path", "/fail", "/items?page=x", "/events?count=1")
        ]
    assert numbers == list(range(1, 8))


async def test_flaky_works_then_fails_twice() -> None:
    async with api() as client:
        statuses = [(await client.get("/flaky")).status for _ in range(6)]
    assert statuses == [200, 503, 503, 200, 503, 503]


async def test_the_report_is_large_and_the_same_each_time() -> None:
    async with api() as client:
        first, second = await (await client.get("/report")).read(), await (await client.get("/report")).read()
    assert len(first) > 1_000_000
    assert first == second
    assert len(json.loads(first)["orders"]) == 12_000


async def test_slow_takes_the_time_it_is_told() -> None:
    async with api() as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        response = await client.get("/slow?seconds=0.2")
        assert loop.time() - began >= 0.2
        assert response.headers["Cache-Control"] == "public, max-age=30"


async def test_events_come_one_by_one_and_end_at_the_count() -> None:
    async with api() as client:
        response = await client.get("/events?count=3&interval=0.01")
        lines = (await response.text()).splitlines()
    assert response.content_type == "text/event-stream"
    assert [line for line in lines if line.startswith("id:")] == ["id: 1", "id: 2", "id: 3"]


async def test_an_event_is_sent_when_it_happens() -> None:
    async with api() as client, client.get("/events?count=2&interval=30") as response:
        # The second is half a minute away: what is read here was not held back for it.
        first = await asyncio.wait_for(response.content.readuntil(b"\n\n"), 5)
        assert first.startswith(b"id: 1\n")


async def test_greeting_varies_with_the_language() -> None:
    async with api() as client:
        german = await client.get("/greeting", headers={"Accept-Language": "xx, de-CH;q=0.9, en;q=0.1"})
        other = await client.get("/greeting", headers={"Accept-Language": "zz"})
    assert (german.headers["Vary"], german.headers["Content-Language"]) == ("Accept-Language", "de")
    assert other.headers["Content-Language"] == "en"


async def test_what_is_private_says_so() -> None:
    async with api() as client:
        response = await client.get("/private")
    assert response.headers["Cache-Control"] == "private, max-age=60"
    assert "session" in response.cookies


async def test_the_front_page_names_an_asset_that_is_there_for_good() -> None:
    async with api() as client:
        page = await (await client.get("/")).text()
        assert f"/assets/{ASSET}" in page
        response = await client.get(f"/assets/{ASSET}")
    assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert response.content_type == "text/css"


async def test_a_stale_quote_may_be_used_while_the_next_is_fetched() -> None:
    async with api() as client:
        first, second = await client.get("/stale"), await client.get("/stale")
        assert [await first.json(), await second.json()] == [{"quote": 1}, {"quote": 2}]
    assert first.headers["Cache-Control"] == "public, max-age=2, stale-while-revalidate=30"


async def test_an_upload_is_counted_and_hashed() -> None:
    body = os.urandom(300_000)
    async with api() as client:
        content = await (await client.post("/receive", data=body)).json()
    assert content == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


async def test_the_program_ends_cleanly_while_a_client_listens_to_events() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.demo.api", "--port", str(port),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with asyncio.timeout(20):
                while True:
                    with suppress(aiohttp.ClientConnectorError):
                        assert (await session.get("/health")).status == 200
                        break
                    await asyncio.sleep(0.02)
            async with session.get("/events") as response:
                await response.content.readuntil(b"\n\n")
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(10):
                    await response.read()  # ended by the server, with its last chunk, not cut off
                    output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, output) == (0, b"")
