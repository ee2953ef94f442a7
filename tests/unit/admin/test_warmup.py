"""Warm-ups: own requests through the pipeline, in the background."""

import asyncio
from typing import Any

import pytest

from proxy.errors import UpstreamIncompleteError, UpstreamTimeoutError
from proxy.http.message import Request, Response, make_headers
from tests.support.admin import TOKEN, AdminBench, bench
from tests.support.plugin_harness import Answer, ChunkStream, response
from tests.support.scripted_application import ScriptedStream

WARMUP = "/admin/cache/warmup"


def origin(request: Request) -> Answer:
    """Cacheable answers, and what goes wrong."""
    match request.path:
        case "/missing":
            return response(404, b"none", {"Cache-Control": "no-store"})
        case "/timeout":
            return UpstreamTimeoutError("the upstream took too long")
        case "/cut":
            return response(200, ChunkStream([b"part"], error=UpstreamIncompleteError("cut off")), {"X": "y"})
        case "/bug":
            raise RuntimeError("a bug in the upstream pool")
        case "/stream":
            return Response(200, make_headers([("Cache-Control", "max-age=60")]), ChunkStream([b"x" * 1000] * 5))
        case _:
            language = request.headers.get("Accept-Language", "none")
            return response(200, language.encode(), {"Cache-Control": "max-age=60", "Vary": "Accept-Language"})


async def warm(admin: AdminBench, **order: Any) -> dict[str, Any]:
    """Start a warm-up and wait until it is over."""
    answer = await admin.post(f"{WARMUP}?wait=true", order)
    assert answer.status == 200, answer.raw
    document: dict[str, Any] = answer.document
    return document


async def test_progress_can_be_had_without_the_results() -> None:
    async with bench(origin) as admin:
        job = await warm(admin, urls=["http://example.test/items/1"])
        shown = (await admin.get(f"{WARMUP}/{job['id']}?results=false")).document
        assert (shown["done"], shown["results"]) == (1, [])
        assert (await admin.get(f"{WARMUP}/{job['id']}")).document == job


async def finished(admin: AdminBench, where: str) -> dict[str, Any]:
    """The job at `where`, asked for until it is over."""
    async with asyncio.timeout(10):
        while True:
            document: dict[str, Any] = (await admin.get(where)).document
            if document["state"] != "running":
                return document


async def test_what_was_warmed_is_a_hit_for_clients() -> None:
    async with bench(origin) as admin:
        job = await warm(admin, urls=["http://Example.test:80/items/1", "http://example.test/stream"])
        assert (job["state"], job["total"], job["done"], job["failed"]) == ("done", 2, 2, 0)
        by_url = {result["url"]: result for result in job["results"]}
        first, stream = by_url["http://example.test/items/1"], by_url["http://example.test/stream"]
        assert (first["status"], first["cache"], first["stored"], first["bytes"]) == (200, "miss", True, 4)
        assert (stream["bytes"], stream["error"]) == (5000, None)
        asked = len(admin.driven.upstream.requests)
        assert (await admin.driven.get("/items/1")).body == b"none"
        assert len((await admin.driven.get("/stream")).body) == 5000
        assert len(admin.driven.upstream.requests) == asked
        again = await warm(admin, urls=["http://example.test/items/1"])
        (result,) = again["results"]
        assert (result["cache"], result["reason"], result["stored"]) == ("hit", "fresh", True)


async def test_every_url_is_fetched_for_every_variant() -> None:
    async with bench(origin) as admin:
        variants = [{}, {"accept-language": "de"}, {"Accept-Language": "fr", "User-Agent": "mine"}]
        job = await warm(admin, host="EXAMPLE.test", urls=["/items/1", "/items/2"], variants=variants)
        assert sorted((result["url"], result["variant"]) for result in job["results"]) == [
            (f"http://example.test/items/{item}", variant) for item in (1, 2) for variant in (0, 1, 2)
        ]
        asked = len(admin.driven.upstream.requests)
        assert (await admin.driven.get("/items/2", {"Accept-Language": "de"})).body == b"de"
        assert len(admin.driven.upstream.requests) == asked
        agents = {request.headers["User-Agent"].partition("/")[0] for request in admin.driven.upstream.requests}
        assert agents == {"sidecache-warmup", "mine"}


async def test_a_request_looks_like_that_of_a_client_on_this_machine() -> None:
    async with bench(origin) as admin:
        job = await warm(admin, scheme="https", host="api.example:443", urls=["/a?b=%2F"])
        (request,) = admin.driven.upstream.requests
        assert (request.method, request.url) == ("GET", "https://api.example/a?b=%2F")
        assert request.headers.getall("Host") == ["api.example"]
        assert request.headers["X-Forwarded-Proto"] == "https"
        assert request.headers["X-Forwarded-Host"] == "api.example"
        assert request.headers["X-Request-ID"] == f"warmup-{job['id']}"
        assert request.client == "127.0.0.1"


async def test_what_goes_wrong_is_told_and_the_rest_is_fetched() -> None:
    async with bench(origin) as admin:
        names = ["missing", "timeout", "cut", "items/1"]
        job = await warm(admin, host="example.test", urls=[f"/{name}" for name in names], concurrency=1)
        told = {result["url"].rpartition("test/")[2]: (result["status"], result["error"]) for result in job["results"]}
        assert told == {
            "missing": (404, None),
            "timeout": (504, "the upstream took too long"),
            "cut": (200, "cut off"),
            "items/1": (200, None),
        }
        assert (job["done"], job["failed"]) == (4, 3)
        assert [result["stored"] for result in job["results"]] == [False, False, False, True]
        # Every exchange that began has been completed.
        assert [outcome.status for outcome in admin.target.completed] == [404, 504, 200, 200]
        assert [outcome.aborted for outcome in admin.target.completed] == [False, False, True, False]


async def test_a_bug_on_the_way_is_the_result_of_one_request_alone() -> None:
    async with bench(origin, plugins=lambda services: []) as admin:
        job = await warm(admin, host="example.test", urls=["/bug", "/items/1"], concurrency=1)
        bug, item = job["results"]
        assert (bug["status"], bug["error"]) == (None, "internal error: RuntimeError")
        assert (item["status"], item["error"]) == (200, None)
        assert (job["state"], job["failed"]) == ("done", 1)


async def test_a_job_runs_in_the_background_with_bounded_concurrency_and_shows_its_progress() -> None:
    gate, under_way, most = asyncio.Event(), 0, 0
    full = asyncio.Event()

    async def slow(request: Request) -> Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 3:
            full.set()
        await gate.wait()
        under_way -= 1
        return response(200, b"x", {"Cache-Control": "max-age=60"})

    async with bench(slow, warmup_max_concurrency=3) as admin:
        urls = [f"http://example.test/{number}" for number in range(10)]
        answer = await admin.post(WARMUP, {"urls": urls, "concurrency": 50})
        assert answer.status == 202
        where = answer.headers["Location"]
        assert (answer.document["state"], answer.document["concurrency"]) == ("running", 3)
        await asyncio.wait_for(full.wait(), 10)
        progress = (await admin.get(where)).document
        assert (progress["state"], progress["done"], progress["finished"]) == ("running", 0, None)
        gate.set()
        progress = await finished(admin, where)
        assert (progress["state"], progress["done"], most) == ("done", 10, 3)
        assert progress["finished"] is not None


async def test_a_body_that_never_ends_is_given_up() -> None:
    never = asyncio.Event()
    stream = ScriptedStream(b"data: 1\n\n", never)

    def events(request: Request) -> Response:
        return Response(200, make_headers([("Content-Type", "text/event-stream")]), stream)

    async with bench(events, plugins=lambda services: [], warmup_timeout_seconds=0.05) as admin:
        (result,) = (await warm(admin, urls=["http://example.test/events"]))["results"]
        assert (result["status"], result["bytes"]) == (200, 9)
        assert "within 0.05 s" in result["error"]
        assert stream.closed
        assert [outcome.aborted for outcome in admin.target.completed] == [True]


async def test_an_upstream_that_never_answers_is_given_up() -> None:
    async def silent(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with bench(silent, plugins=lambda services: [], warmup_timeout_seconds=0.05) as admin:
        (result,) = (await warm(admin, urls=["http://example.test/"]))["results"]
        assert (result["status"], result["cache"], result["bytes"]) == (None, "none", 0)
        assert "within" in result["error"]


async def test_jobs_under_way_are_bounded_and_end_with_the_port() -> None:
    gate = asyncio.Event()

    async def slow(request: Request) -> Response:
        await gate.wait()
        return response()

    async with bench(slow, warmup_max_running=2) as admin:
        order = {"urls": ["http://example.test/"]}
        first, second = await admin.post(WARMUP, order), await admin.post(WARMUP, order)
        assert (first.status, second.status) == (202, 202)
        third = await admin.post(WARMUP, order)
        assert third.status == 429 and third.is_problem
        assert third.headers["Retry-After"] == "5"
        gate.set()
        await finished(admin, first.headers["Location"])
        assert (await admin.post(WARMUP, order)).status == 202


async def test_a_port_that_closes_ends_warm_ups_and_those_who_wait_are_told() -> None:
    asked = asyncio.Event()

    async def silent(request: Request) -> Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with bench(silent, plugins=lambda services: []) as admin:
        waiting = asyncio.ensure_future(admin.post(f"{WARMUP}?wait=true", {"urls": ["http://example.test/"] * 3}))
        await asyncio.wait_for(asked.wait(), 10)
        await admin.port.close()
        answer = await asyncio.wait_for(waiting, 10)
        assert (answer.document["state"], answer.document["done"]) == ("cancelled", 0)


async def test_only_the_last_jobs_are_remembered() -> None:
    async with bench(warmup_max_kept=2) as admin:
        jobs = [await warm(admin, urls=["http://example.test/items/1"]) for _ in range(4)]
        statuses = [(await admin.get(f"{WARMUP}/{job['id']}")).status for job in jobs]
        assert statuses == [404, 404, 200, 200]
        assert (await admin.get(f"{WARMUP}/{jobs[0]['id']}")).is_problem


@pytest.mark.parametrize(
    ("order", "path", "words"),
    [
        ({}, "urls", "required"),
        ({"urls": []}, "urls", "at least one item"),
        ({"urls": ["http://a/", "/items"]}, "urls[1]", "needs 'host'"),
        ({"urls": ["ftp://a/"]}, "urls[0]", "absolute URL"),
        ({"urls": ["/a b"], "host": "a"}, "urls[0]", "percent-encoded"),
        ({"urls": ["/"], "host": "a/b"}, "host", "no host"),
        ({"urls": ["http://a/"], "scheme": "ftp"}, "scheme", "'http' or 'https'"),
        ({"urls": ["http://a/"], "variants": []}, "variants", "at least one item"),
        ({"urls": ["http://a/"], "variants": [{}, {"A b": "c"}]}, "variants[1]", "no field name"),
        ({"urls": ["http://a/"], "variants": [{"A": "b\r\nc: d"}]}, "variants[0]", "no field value"),
        ({"urls": ["http://a/"], "variants": [{"HOST": "b"}]}, "variants[0]", "set by the sidecar"),
        ({"urls": ["http://a/"], "variants": [{"Transfer-Encoding": "chunked"}]}, "variants[0]", "set by the sidecar"),
        ({"urls": ["http://a/"], "variants": [{"A": 1}]}, "variants[0].A", "string"),
        ({"urls": ["http://a/"], "concurrency": 0}, "concurrency", "greater than 0"),
        ({"urls": ["http://a/"], "methods": ["POST"]}, "methods", "unknown"),
        ({"urls": ["http://a/"] * 11}, "urls", "more than 10"),
        ({"urls": ["http://a/"] * 6, "variants": [{}, {"A": "b"}]}, "urls", "more than 10"),
    ],
)
async def test_a_wrong_order_is_refused_and_asks_nobody(order: dict[str, Any], path: str, words: str) -> None:
    async with bench(origin, warmup_max_requests=10) as admin:
        answer = await admin.post(WARMUP, order)
        assert answer.status == 422 and answer.is_problem
        assert [mistake["path"] for mistake in answer.document["errors"]] == [path]
        assert words in answer.document["errors"][0]["message"]
        assert not admin.driven.upstream.requests


async def test_results_do_not_repeat_credentials() -> None:
    async with bench(origin) as admin:
        answer = await admin.post(
            f"{WARMUP}?wait=true", {"urls": ["http://a/"], "variants": [{"Authorization": f"Bearer {TOKEN}"}]}
        )
        assert TOKEN not in answer.raw.decode()
