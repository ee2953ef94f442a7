"""The metrics of a whole process can be read by what reads metrics."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support.origin import Origin, origin
from tests.support.sidecar import sidecar


@pytest.fixture
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        one.text("/", "ok", Cache_Control="max-age=60")
        yield one


async def test_both_formats_parse_and_agree_on_what_clients_did(app: Origin, tmp_path: Path) -> None:
    async with (
        sidecar(app.url, tmp_path, {"routes": [{"name": "odd/{name}:*", "match": {"path": "/"}}]}) as running,
        aiohttp.ClientSession() as session,
    ):
        for _ in range(5):
            async with session.get(running.url + "/") as answer:
                assert answer.status == 200
        async with session.get(running.admin_url + "/metrics") as answer:
            assert answer.content_type == "text/plain"
            text = {family.name: family for family in parse_text(await answer.text())}
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with session.get(running.admin_url + "/metrics", headers=accept) as answer:
            assert answer.content_type == "application/openmetrics-text"
            openmetrics = {family.name: family for family in parse_openmetrics(await answer.text())}  # type: ignore[no-untyped-call] # has no types
    for families in (text, openmetrics):
        counts = {
            (sample.labels["route"], sample.labels["result"]): sample.value
            for sample in families["sidecache_cache_requests"].samples
            if sample.name.endswith("_total") and sample.value
        }
        assert counts == {("odd/{name}:*", "miss"): 1, ("odd/{name}:*", "hit"): 4}
    ours = {name for name in text if name.startswith("sidecache_")}
    assert ours
    assert ours <= set(openmetrics)
