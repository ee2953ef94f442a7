"""The cache of a whole process, as clients and operators see it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.support.origin import Origin, origin
from tests.support.sidecar import SidecarProcess, sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")

CROWD = 500
TABLES: Mapping[str, Any] = {
    "cache": {"l2": "none"},
    "upstream": {"max_connections": 400},
    "routes": [
        {"name": "ttl", "match": {"path": "/ttl/*"}, "plugins": {"cache": {"ttl_seconds": 60}}},
        {"name": "swr", "match": {"path": "/swr/*"}, "plugins": {"cache": {"stale_while_revalidate_seconds": 600}}},
        {"name": "sie", "match": {"path": "/sie/*"}, "plugins": {"cache": {"stale_if_error_seconds": 600}}},
    ],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(app: Origin, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SidecarProcess]:
    async with sidecar(app.url, tmp_path_factory.mktemp("cache"), TABLES) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module")
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        yield session


class Got:
    """An answer, and what its `Cache-Status` says."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        name, *parameters = headers.get("Cache-Status", "").split(";")
        assert name == "sidecache"
        self.cache = {part.strip().partition("=")[0]: part.partition("=")[2] for part in parameters}

    @property
    def is_hit(self) -> bool:
        return "hit" in self.cache


async def get(client: aiohttp.ClientSession, running: SidecarProcess, path: str, **headers: str) -> Got:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.get(running.url + path, headers=fields) as answer:
        return Got(answer.status, answer.headers, await answer.read())


async def purge(running: SidecarProcess, **order: Any) -> dict[str, Any]:
    status, document = await running.admin("POST", "/admin/cache/invalidate", order)
    assert status == 200, document
    (done,) = document["purges"]
    assert isinstance(done, dict)
    return done


async def test_the_second_request_is_a_hit_and_says_its_age(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    app.text("/hit", "body", Cache_Control="max-age=60", Age="10")
    cold = await get(client, running, "/hit")
    warm = await get(client, running, "/hit")
    assert (cold.cache["fwd"], cold.cache["fwd-status"], cold.is_hit) == ("uri-miss", "200", False)
    assert "stored" in cold.cache
    assert warm.is_hit
    assert 10 <= int(warm.headers["Age"]) <= 12
    assert 48 <= int(warm.cache["ttl"]) <= 50
    assert cold.body == warm.body == b"body"
    assert app.count["/hit"] == 1


async def test_a_client_that_has_it_gets_304_without_the_origin(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    app.text("/conditional", "body", Cache_Control="max-age=60", ETag='"1"')
    cold = await get(client, running, "/conditional", If_None_Match='"1"')
    warm = await get(client, running, "/conditional", If_None_Match='"1"')
    other = await get(client, running, "/conditional", If_None_Match='"2"')
    assert [(one.status, one.body) for one in (cold, warm, other)] == [(304, b""), (304, b""), (200, b"body")]
    assert app.count["/conditional"] == 1
    assert "If-None-Match" not in app.last("/conditional").headers, "the fill is for all"


async def test_a_range_of_what_is_stored_is_answered_from_it(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    app.text("/range", "0123456789", Cache_Control="max-age=60", ETag='"1"')
    await get(client, running, "/range")
    part = await get(client, running, "/range", Range="bytes=2-4")
    beyond = await get(client, running, "/range", Range="bytes=20-")
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */10")
    assert app.count["/range"] == 1


async def test_a_stale_response_is_revalidated_and_the_304_refreshes_it(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        fields = {"ETag": '"1"', "Cache-Control": f"max-age={0 if app.count['/stale'] == 1 else 60}"}
        if request.headers.get("If-None-Match") == '"1"':
            return web.Response(status=304, headers=fields)
        return web.Response(text="body", headers=fields)

    app.on("/stale", answer)
    await get(client, running, "/stale")
    again = await get(client, running, "/stale")
    assert (again.status, again.body, again.cache["fwd"], again.cache["fwd-status"]) == (200, b"body", "stale", "304")
    assert (await get(client, running, "/stale")).is_hit
    assert app.count["/stale"] == 2


async def test_a_stale_response_is_served_while_it_is_revalidated(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    gate = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        count = app.count["/swr/x"]
        if count > 1:
            await gate.wait()
        return web.Response(text=f"body {count}", headers={"Cache-Control": f"max-age={0 if count == 1 else 60}"})

    app.on("/swr/x", answer)
    await get(client, running, "/swr/x")
    for _ in range(3):
        stale = await get(client, running, "/swr/x")
        assert (stale.body, stale.is_hit) == (b"body 1", True)
        assert int(stale.cache["ttl"]) <= 0
    gate.set()
    async with asyncio.timeout(10):
        while (fresh := await get(client, running, "/swr/x")).body != b"body 2":
            await asyncio.sleep(0.01)
    assert fresh.is_hit
    assert app.count["/swr/x"] == 2


@pytest.mark.parametrize("failure", [500, 503, 0])
async def test_a_stale_response_is_served_when_the_origin_fails(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession, failure: int
) -> None:
    path = f"/sie/{failure}"
    app.text(path, "good", Cache_Control="max-age=0")
    await get(client, running, path)

    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        if failure:
            return web.Response(status=failure)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    app.on(path, fail)
    stale = await get(client, running, path)
    assert (stale.status, stale.body) == (200, b"good")
    assert stale.cache.get("fwd-status") == (str(failure) if failure else None)
    assert app.count[path] == 2 if failure else app.count[path] >= 2


@pytest.mark.parametrize("scope", ["key", "url", "prefix", "tag", "tags", "all"])
@pytest.mark.parametrize("soft", [False, True])
async def test_a_purge_of_each_scope_voids_what_it_names_and_no_more(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession, scope: str, soft: bool
) -> None:
    base = f"/purge/{scope}-{soft}"
    paths = {"one": f"{base}/one?a=1", "other": f"{base}-other"}
    for name, path in paths.items():
        app.text(path.partition("?")[0], name, Cache_Control="max-age=60", ETag='"1"', Cache_Tag=f"{scope}{soft}{name}")
        await get(client, running, path)
        assert (await get(client, running, path)).is_hit
    url = running.url + paths["one"]
    order: dict[str, Any] = {
        "key": f"GET {url}",
        "url": url,
        "prefix": f"{running.url}{base}/",
        "tag": f"{scope}{soft}one",
        "tags": [f"{scope}{soft}one"],
        "all": True,
    }
    done = await purge(running, **{scope: order[scope], "soft": soft})
    assert done["softened" if soft else "dropped"] >= 1
    one, other = await get(client, running, paths["one"]), await get(client, running, paths["other"])
    assert one.cache["fwd"] == ("stale" if soft else "uri-miss")
    assert other.is_hit is (scope != "all")
    assert app.count[paths["one"]] == 2
    assert ("If-None-Match" in app.last(f"{base}/one").headers) is soft
    assert (await get(client, running, paths["one"])).is_hit


async def test_a_purge_beats_a_fetch_that_began_before_it(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    gate, reached = asyncio.Event(), asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        count = app.count["/race"]
        if count == 1:
            reached.set()
            await gate.wait()
        return web.Response(text=f"body {count}", headers={"Cache-Control": "max-age=60"})

    app.on("/race", answer)
    slow = asyncio.ensure_future(get(client, running, "/race"))
    await asyncio.wait_for(reached.wait(), 10)
    await purge(running, url=running.url + "/race")
    after = await get(client, running, "/race")
    assert after.body == b"body 2", "who asks after the purge does not get what was read before it"
    gate.set()
    assert (await slow).body == b"body 1"
    assert (await get(client, running, "/race")).body == b"body 2"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_the_success_of_an_unsafe_method_voids_what_is_stored(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession, method: str
) -> None:
    path, other = f"/item-{method}", f"/list-{method}"
    for one in (path, other):
        app.text(one, "old", Cache_Control="max-age=60", Location=other)
        await get(client, running, one)
    async with client.request(method, running.url + path, data=b"x") as answer:
        assert answer.status == 200
    for one in (path, other):
        assert not (await get(client, running, one)).is_hit
        assert (await get(client, running, one)).is_hit


async def test_the_failure_of_an_unsafe_method_voids_nothing(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    app.text("/kept", "old", Cache_Control="max-age=60")
    await get(client, running, "/kept")
    app.text("/kept", "no", 409)
    async with client.post(running.url + "/kept") as answer:
        assert answer.status == 409
    assert (await get(client, running, "/kept")).is_hit


async def test_a_crowd_of_cold_requests_is_one_request_to_the_origin_and_so_after_a_purge(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()
    body = bytes(range(256)) * 400

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        reached.set()
        await gate.wait()
        return web.Response(
            body=body + str(app.count["/crowd"]).encode(), headers={"Cache-Control": "max-age=60", "ETag": '"1"'}
        )

    app.on("/crowd", answer)
    for turn in (1, 2):
        reached.clear()
        gate.clear()
        crowd = [asyncio.ensure_future(get(client, running, "/crowd")) for _ in range(CROWD)]
        await asyncio.wait_for(reached.wait(), 10)
        async with asyncio.timeout(20):  # all are in
            while await _in_flight(running) < CROWD:
                await asyncio.sleep(0.01)
        gate.set()
        answers = await asyncio.gather(*crowd)
        assert {one.body for one in answers} == {body + str(turn).encode()}
        assert app.count["/crowd"] == turn
        assert sum("collapsed" in one.cache for one in answers) == CROWD - 1
        await purge(running, url=running.url + "/crowd")


async def _in_flight(running: SidecarProcess) -> float:
    _, text = await running.admin("GET", "/metrics")
    return next(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("sidecache_server_requests_in_flight")
    )


async def test_requests_for_what_is_known_to_be_uncacheable_go_side_by_side(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    under_way = 0
    all_here = asyncio.Event()
    count = 200

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal under_way
        under_way += 1
        if under_way == count:
            all_here.set()
        if app.count["/private"] > 1:
            await all_here.wait()
        return web.Response(text=str(app.count["/private"]), headers={"Cache-Control": "private"})

    app.on("/private", answer)
    await get(client, running, "/private")
    under_way = 0
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*[get(client, running, "/private") for _ in range(count)])
    assert not any(one.is_hit or "collapsed" in one.cache for one in answers)
    assert app.count["/private"] == count + 1


async def test_a_cold_crowd_for_what_turns_out_private_shares_nothing(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=request.headers["X-Who"], headers={"Cache-Control": "private, max-age=60"})

    app.on("/whoami", answer)
    answers = await asyncio.gather(*[get(client, running, "/whoami", X_Who=str(who)) for who in range(100)])
    assert [one.body for one in answers] == [str(who).encode() for who in range(100)]
    assert app.count["/whoami"] == 100


async def test_the_compressed_form_of_a_stored_response_is_computed_once(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    text = "a text that is long enough. " * 10_000
    app.text("/text", text, Cache_Control="max-age=60", ETag='"1"')
    await get(client, running, "/text", Accept_Encoding="identity")
    read = 'sidecache_compression_bytes_total{coding="br",side="in"}'
    before = _total((await running.admin("GET", "/metrics"))[1], read)
    answers = await asyncio.gather(*[get(client, running, "/text", Accept_Encoding="br") for _ in range(50)])
    answers += [await get(client, running, "/text", Accept_Encoding="br") for _ in range(5)]
    assert {(one.headers["Content-Encoding"], one.is_hit) for one in answers} == {("br", True)}
    assert len({one.body for one in answers}) == 1
    assert len(answers[0].body) < 5000
    assert _total((await running.admin("GET", "/metrics"))[1], read) - before == len(text)
    assert app.count["/text"] == 1


def _total(metrics: str, name: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(name))


async def test_variants_are_kept_apart(running: SidecarProcess, app: Origin, client: aiohttp.ClientSession) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        language = request.headers.get("Accept-Language", "none")
        return web.Response(text=language, headers={"Cache-Control": "max-age=60", "Vary": "Accept-Language"})

    app.on("/vary", answer)
    for _ in range(2):
        for language in ("de", "en"):
            assert (await get(client, running, "/vary", Accept_Language=language)).body == language.encode()
    assert app.count["/vary"] == 2


async def test_a_response_that_varies_by_the_clients_condition_is_fetched_once_and_reaches_it_whole(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    """A fill is asked for without the client's conditions: the answer is still the one to its request."""
    body = bytes(range(256)) * 40_000  # more than is kept

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "max-age=60", "Vary": "If-None-Match"})
        await response.prepare(request)
        for place in range(0, len(body), 65_536):
            await response.write(body[place : place + 65_536])
        return response

    app.on("/vary-condition", answer)
    async with asyncio.timeout(10):
        assert (await get(client, running, "/vary-condition", If_None_Match='"1"')).body == body
    assert app.count["/vary-condition"] == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"Cache-Control": "private"},
        {"Cache-Control": "no-store"},
        {"Set-Cookie": "session=1"},
        {"Vary": "*"},
        {"Cache-Control": "private=Set-Cookie, max-age=60, no-store"},
    ],
)
async def test_a_lifetime_of_the_route_makes_no_private_response_shared(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession, fields: dict[str, str]
) -> None:
    path = f"/ttl/{len(app.seen)}"

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=str(app.count[path]), headers=fields)

    app.on(path, answer)
    assert [(await get(client, running, path)).body for _ in range(3)] == [b"1", b"2", b"3"]


async def test_a_lifetime_of_the_route_makes_no_answer_to_credentials_shared(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=request.headers.get("Authorization", "nobody"))

    app.on("/ttl/mine", answer)
    for who in ("Basic YTph", "Basic Yjpi"):
        assert (await get(client, running, "/ttl/mine", Authorization=who)).body == who.encode()
    assert (await get(client, running, "/ttl/mine")).body == b"nobody"
    assert (await get(client, running, "/ttl/mine")).is_hit, "the route's lifetime holds for what is for all"


async def test_a_request_with_a_body_or_an_odd_method_goes_past_the_cache(
    running: SidecarProcess, app: Origin, client: aiohttp.ClientSession
) -> None:
    app.text("/body", "answer", Cache_Control="max-age=60")
    for _ in range(2):
        async with client.get(running.url + "/body", data=b"query") as answer:
            assert await answer.read() == b"answer"
            assert "hit" not in answer.headers["Cache-Status"]
    assert app.count["/body"] == 2
