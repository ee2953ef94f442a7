"""Compression before the real cache: the origin is asked once per resource, and every client is told the truth."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from plugins.cache import Cache, CacheSettings
from plugins.compression import Compression
from plugins.compression.codecs import CODINGS
from plugins.compression.settings import CompressionSettings
from proxy.http.message import Request, Response
from proxy.metrics.registry import Registry
from proxy.storage.memory import MemoryStore
from proxy.storage.memory_log import MemoryLog
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from tests.support.clock import FakeClock
from tests.support.plugin_harness import ChunkStream, PluginHarness, harness, request, response
from tests.unit.plugins.compression.test_plugin import BR, TEXT, decoded

FRESH = {"Content-Type": "text/plain", "Cache-Control": "max-age=60", "ETag": '"v1"'}


def origin(asked: Request) -> Response:
    if asked.headers.get("If-None-Match") == '"v1"':
        return response(304, b"", FRESH)
    return response(200, TEXT, FRESH)


@asynccontextmanager
async def sidecar(script: Any = origin, **chosen: Any) -> AsyncIterator[PluginHarness]:
    clock, tasks, metrics = FakeClock(), Tasks(), Registry()
    log = MemoryLog(clock)
    store = TieredStore(MemoryStore(1 << 22, clock), None, log, clock, tasks, metrics)
    async with harness(
        lambda services: [
            Compression(CompressionSettings.model_validate(chosen), services),
            Cache(CacheSettings(), services),
        ],
        script,
        clock=clock,
        store=store,
        invalidations=log,
        metrics=metrics,
    ) as running:
        yield running
    await store.close()
    await tasks.close()


async def test_one_fetch_serves_every_coding() -> None:
    async with sidecar() as h:
        for _ in range(2):
            for coding in (*CODINGS, "identity"):
                got = await h.get(headers={"Accept-Encoding": coding})
                assert (got.header("Content-Encoding") or "identity") == coding
                assert decoded(got) == TEXT
        assert len(h.upstream.requests) == 1


async def test_a_stored_response_is_compressed_once_for_any_number_of_clients() -> None:
    async with sidecar() as h:
        await h.get()
        got = await asyncio.gather(*(h.get(headers=BR) for _ in range(50)))
        stats = h.pipeline.plugins[0].stats()
    assert len({answer.body for answer in got}) == 1
    assert stats["bytes"] == {
        "br": {"in": len(TEXT), "out": len(got[0].body)},
        "zstd": {"in": 0, "out": 0},
        "gzip": {"in": 0, "out": 0},
    }


async def test_fifty_cold_clients_cost_one_fetch() -> None:
    async with sidecar() as h:
        got = await asyncio.gather(*(h.get(headers=BR) for _ in range(50)))
        assert len(h.upstream.requests) == 1
    assert {decoded(answer) for answer in got} == {TEXT}


async def test_each_client_s_form_is_confirmed_from_the_cache() -> None:
    async with sidecar() as h:
        for coding in (*CODINGS, "identity"):
            headers = {"Accept-Encoding": coding}
            tag = (await h.get(headers=headers)).header("ETag")
            assert tag is not None
            again = await h.get(headers={**headers, "If-None-Match": tag})
            assert (again.status, again.header("ETag")) == (304, tag)
            assert again.header("Vary") == "Accept-Encoding"
        assert len(h.upstream.requests) == 1


async def test_a_stale_form_is_confirmed_with_the_origin_in_its_own_tag() -> None:
    async with sidecar() as h:
        tag = (await h.get(headers=BR)).header("ETag")
        assert tag == '"v1~br"'
        h.clock.advance(100)
        again = await h.get(headers={**BR, "If-None-Match": tag})
        assert (again.status, again.header("ETag")) == (304, tag)
        assert [sent.headers.get("If-None-Match") for sent in h.upstream.requests] == [None, '"v1"']


async def test_head_has_the_fields_of_get() -> None:
    async with sidecar() as h:
        await h.get()
        got = await h.get(headers=BR)
        head = await h.send(request("HEAD", headers=BR))
    assert dict(head.response.headers) == dict(got.response.headers)
    assert head.body == b""


async def test_a_range_is_of_the_plain_form_and_never_continues_a_coded_one() -> None:
    async with sidecar() as h:
        tag = (await h.get(headers=BR)).header("ETag")
        assert tag is not None
        part = await h.get(headers={**BR, "Range": "bytes=10-19", "If-Range": '"v1"'})
        assert (part.status, part.body, part.header("ETag")) == (206, TEXT[10:20], '"v1"')
        assert part.header("Vary") == "Accept-Encoding"
        whole = await h.get(headers={**BR, "Range": "bytes=10-19", "If-Range": tag})
        assert (whole.status, whole.body) == (200, TEXT)
        beyond = await h.get(headers={**BR, "Range": f"bytes={len(TEXT)}-"})
        assert beyond.status == 416
        assert len(beyond.body) < 200


@pytest.mark.parametrize("length", [{}, {"Content-Length": str(3 * len(TEXT))}])
async def test_a_stream_is_compressed_while_it_is_stored_plain(length: dict[str, str]) -> None:
    def stream(_: Request) -> Response:
        return response(200, ChunkStream([TEXT] * 3), {**FRESH, **length})

    async with sidecar(stream) as h:
        first = await h.get(headers=BR)
        second = await h.get(headers=BR)
        third = await h.get()
        assert len(h.upstream.requests) == 1
    assert decoded(first) == decoded(second) == third.body == TEXT * 3
    assert first.header("Content-Length") is None
    assert second.header("Content-Length") == str(len(second.body))
    assert first.header("ETag") == second.header("ETag") == '"v1~br"'
