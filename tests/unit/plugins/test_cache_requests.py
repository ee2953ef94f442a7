"""Which requests the cache takes: content as part of the key, fields that cannot poison, variants within bounds."""

import asyncio

import pytest

from proxy.http.message import Request, Response
from proxy.storage.invalidation_log import PurgeScope
from tests.support.plugin_harness import Answered, ChunkStream, request, response
from tests.unit.plugins.test_cache import FRESH, Origin, cached, result, settle

JSON = {"Content-Type": "application/json"}


def reason(answered: Answered) -> str:
    why = answered.exchange.cache.reason
    return why.token if why is not None else ""


def query(body: bytes, method: str = "QUERY", target: str = "/a") -> Request:
    return request(method, target, JSON, body=body)


class TestContent:
    @pytest.mark.parametrize("method", ["POST", "QUERY"])
    async def test_equal_content_is_a_hit_and_other_content_is_not(self, method: str) -> None:
        origin = Origin(FRESH)
        async with cached(origin, body_methods=("POST", "QUERY")) as h:
            first = await h.send(query(b'{"a": 1, "b": 2}', method))
            same = await h.send(query(b'{"b":2,"a":1}', method))
            other = await h.send(query(b'{"a": 2, "b": 2}', method))
        assert [result(each) for each in (first, same, other)] == ["miss", "hit", "miss"]
        assert (same.body, origin.asked) == (b"answer 1", 2)
        assert h.upstream.requests[0].body == b'{"a": 1, "b": 2}', "the origin gets the content as it was sent"

    async def test_no_method_with_content_is_kept_unless_the_route_says_so(self) -> None:
        async with cached(Origin(FRESH)) as h:
            answers = [await h.send(query(b"{}", method)) for method in ("POST", "QUERY", "POST")]
        assert {result(each) for each in answers} == {"bypass"}

    @pytest.mark.parametrize("says_so", [True, False])
    async def test_content_over_the_cap_reaches_the_origin_whole(self, says_so: bool) -> None:
        async def script(asked: Request) -> Response:
            assert not isinstance(asked.body, bytes)
            return response(200, b"".join([chunk async for chunk in asked.body]), FRESH)

        headers = {"Content-Length": "6"} if says_so else {}
        async with cached(script, body_methods=("POST",), max_request_body_bytes=3) as h:
            for _ in range(2):
                stream = ChunkStream([b"ab", b"cd", b"ef"])
                answered = await h.send(request("POST", "/a", headers, body=stream))
                assert (answered.body, reason(answered)) == (b"abcdef", "request-body")

    async def test_streamed_content_within_the_cap_is_read_closed_and_keyed(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin, body_methods=("POST",)) as h:
            stream = ChunkStream([b"a", b"b"])
            await h.send(request("POST", "/a", body=stream))
            assert result(await h.send(request("POST", "/a", body=b"ab"))) == "hit"
        assert stream.closed

    async def test_a_post_needs_an_explicit_lifetime(self) -> None:
        async with cached(Origin({"ETag": '"v1"', "Cache-Control": "public"}), body_methods=("POST",)) as h:
            await h.send(query(b"{}", "POST"))
            assert result(await h.send(query(b"{}", "POST"))) == "miss"

    async def test_a_stale_post_is_fetched_anew_without_conditions(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin, body_methods=("POST",)) as h:
            await h.send(query(b"{}", "POST"))
            h.clock.advance(61)
            assert (await h.send(query(b"{}", "POST"))).body == b"answer 2"
        assert "If-None-Match" not in h.upstream.requests[-1].headers

    async def test_a_purge_by_url_voids_what_is_kept_for_any_content(self) -> None:
        async with cached(Origin(FRESH), body_methods=("POST",)) as h:
            await h.send(query(b"1", "POST"))
            await h.send(query(b"2", "POST"))
            await h.services.invalidations.append(PurgeScope.URL, "http://example.test/a")
            assert result(await h.send(query(b"1", "POST"))) == "miss"
            assert result(await h.send(query(b"2", "POST"))) == "miss"

    async def test_a_kept_post_invalidates_nothing_and_one_not_kept_does(self) -> None:
        def make(asked: Request, _: int) -> Response:
            return response(200, b"x", {"Cache-Control": "no-store"} if asked.body == b"0" else FRESH)

        async with cached(Origin({}, make=make), body_methods=("POST",)) as h:
            await h.get("/a")
            await h.send(query(b"1", "POST"))
            assert result(await h.get("/a")) == "hit"
            assert result(await h.send(query(b"1", "POST"))) == "hit"
            await h.send(query(b"0", "POST"))
            assert result(await h.get("/a")) == "miss"

    async def test_a_post_whose_client_left_invalidates_all_the_same(self) -> None:
        gate = asyncio.Event()

        async def script(asked: Request) -> Response:
            if asked.method == "POST":
                await gate.wait()
                return response(200, b"done", {"Cache-Control": "no-store"})
            return response(200, b"x", FRESH)

        async with cached(script, body_methods=("POST",)) as h:
            await h.get("/a")
            leaving = asyncio.ensure_future(h.send(query(b"1", "POST")))
            await settle()
            leaving.cancel()
            await settle()
            gate.set()
            await settle()
            assert result(await h.get("/a")) == "miss"

    async def test_a_condition_on_a_post_is_the_origins_to_judge(self) -> None:
        async with cached(Origin(FRESH), body_methods=("POST",)) as h:
            answered = await h.send(request("POST", "/a", {"If-None-Match": "*"}, body=b"1"))
        assert reason(answered) == "request-condition"
        assert h.upstream.requests[0].headers["If-None-Match"] == "*"


class TestFields:
    @pytest.mark.parametrize("name", ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "X-Forwarded-Scheme"])
    async def test_a_field_that_chooses_the_answer_does_not_reach_the_origin(self, name: str) -> None:
        async with cached(Origin(FRESH)) as h:
            first = await h.get("/a", {name: "/evil"})
            assert result(await h.get("/a")) == "hit"
        assert result(first) == "miss"
        assert name not in h.upstream.requests[0].headers

    @pytest.mark.parametrize("name", ["X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override"])
    async def test_another_method_than_the_keys_bypasses(self, name: str) -> None:
        async with cached(Origin(FRESH)) as h:
            odd = await h.get("/a", {name: "DELETE"})
            assert result(await h.get("/a")) == "miss"
            assert result(await h.get("/a", {name: "DELETE"})) == "bypass"
        assert (result(odd), reason(odd)) == ("bypass", "request-field")
        assert "fwd=bypass" in (odd.header("Cache-Status") or "")

    async def test_a_route_may_rule_otherwise(self) -> None:
        rules = {"X-Original-URL": "pass", "X-Debug": "bypass"}
        async with cached(Origin(FRESH), unkeyed_fields=rules) as h:
            await h.get("/a", {"X-Original-URL": "/b"})
            assert reason(await h.get("/a", {"X-Debug": "1"})) == "request-field"
        assert h.upstream.requests[0].headers["X-Original-URL"] == "/b"

    async def test_a_field_of_the_key_passes(self) -> None:
        async with cached(Origin(FRESH), key_headers=("X-Forwarded-Prefix",)) as h:
            await h.get("/a", {"X-Forwarded-Prefix": "/one"})
            assert result(await h.get("/a", {"X-Forwarded-Prefix": "/two"})) == "miss"
        assert [each.headers["X-Forwarded-Prefix"] for each in h.upstream.requests] == ["/one", "/two"]

    @pytest.mark.parametrize("status", [400, 405, 413, 414, 431, 501])
    async def test_an_error_that_a_request_provokes_is_not_kept_unless_it_says_so(self, status: int) -> None:
        async with cached(Origin({}, status=status), ttl_seconds=60) as h:
            await h.get("/a")
            assert result(await h.get("/a")) == "miss"
        async with cached(Origin({"Cache-Control": "max-age=60"}, status=status)) as h:
            await h.get("/a")
            assert result(await h.get("/a")) == "hit"


class TestCompleteness:
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_a_body_short_of_its_length_is_not_kept(self, streamed: bool) -> None:
        def make(_: Request, __: int) -> Response:
            return response(200, ChunkStream([b"half"]) if streamed else b"half", {**FRESH, "Content-Length": "8"})

        async with cached(Origin({}, make=make)) as h:
            await h.get("/a")
            assert result(await h.get("/a")) == "miss"


class TestVariants:
    async def test_beyond_the_cap_newcomers_pass_and_those_kept_stay(self) -> None:
        origin = Origin({**FRESH, "Vary": "X-Plan"})
        async with cached(origin, max_variants=3) as h:
            for plan in range(10):
                answered = await h.get("/a", {"X-Plan": str(plan)})
                room = "vary-miss" if plan else "nothing-stored"
                assert reason(answered) == ("too-many-variants" if plan >= 3 else room)
                assert "stored" in (answered.header("Cache-Status") or "") or plan >= 3
            kept = [result(await h.get("/a", {"X-Plan": str(plan)})) for plan in range(3)]
            held = len(h.services.store.l1)
        assert (kept, held) == (["hit"] * 3, 4)

    async def test_a_variant_that_is_kept_may_be_replaced_at_the_cap(self) -> None:
        origin = Origin({"Cache-Control": "max-age=60, stale-if-error=600", "Vary": "X-Plan"})
        async with cached(origin, max_variants=1) as h:
            await h.get("/a", {"X-Plan": "a"})
            h.clock.advance(61)
            assert (await h.get("/a", {"X-Plan": "a"})).body == b"answer 2"
            assert (await h.get("/a", {"X-Plan": "a"})).body == b"answer 2"
