"""The compiled pipeline, and what plugins count."""

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs
from typing_extensions import override

from plugins.cache import Cache
from plugins.cache.settings import CacheSettings
from plugins.latency import Latency, LatencySettings
from proxy.http.message import Response
from proxy.pipeline.exchange import Exchange, Stats
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay, Services
from tests.support.admin import bench


class Oddity:
    @override
    def __str__(self) -> str:
        return "odd"


class SignerSettings(PluginSettings):
    secret: SecretStr = SecretStr("do-not-show")


class Signer(Plugin[SignerSettings]):
    name: ClassVar[str] = "signer"
    settings_type: ClassVar[type[PluginSettings]] = SignerSettings

    @override
    async def on_response(self, exchange: Exchange, response: Response) -> Response:
        return response

    @override
    def stats(self) -> Stats:
        return {"signed": 3, "oddity": Oddity()}


def three(services: Services) -> Sequence[Plugin[Any]]:
    cache = Cache(CacheSettings(), services)
    return [Latency(LatencySettings(), services), cache, Signer(SignerSettings(), services)]


async def test_the_order_is_shown_per_route_with_the_place_of_each_plugin() -> None:
    async with bench(plugins=three) as admin:
        answer = await admin.get("/admin/pipeline")
        items, default = answer.document["routes"]
        assert (items["name"], items["path"], items["methods"], items["hosts"]) == (
            "items", "/items/{id}", ["GET"], ["example.test"],
        )  # fmt: skip
        assert (default["name"], default["path"], default["methods"], default["hosts"]) == ("default", None, [], [])
        plugins = items["plugins"]
        assert [(plugin["name"], plugin["place"]) for plugin in plugins] == [
            ("latency", "left"), ("cache", "cache"), ("signer", "right"),
        ]  # fmt: skip
        assert plugins[0]["hooks"] == ["on_complete", "on_replay", "on_passage"] and plugins[0]["replay"] == "pure"
        assert plugins[2]["hooks"] == ["on_response"] and plugins[2]["replay"] == "never"
        assert plugins[0]["type"] == "plugins.latency:Latency"
        assert plugins[1]["settings"]["max_variants"] == 64
        assert items["against_replay"] == default["against_replay"] == []


@pytest.mark.parametrize(
    ("order", "against"),
    [((Signer, Cache), ["signer"]), ((Cache, Signer), []), ((Signer,), []), ((Latency, Cache), [])],
)
async def test_plugins_that_must_see_each_exchange_are_named_where_a_cache_stands_behind_them(
    order: tuple[type[Plugin[Any]], ...], against: list[str]
) -> None:
    with capture_logs() as lines:
        async with bench(plugins=lambda made: [plugin(plugin.settings_type(), made) for plugin in order]) as admin:
            routes = (await admin.get("/admin/pipeline")).document["routes"]
    assert [route["against_replay"] for route in routes] == [against] * 2
    told = [(line["route"], list(line["plugins"])) for line in lines if line["event"].startswith("no kept answers")]
    assert told == ([("items", against), ("default", against)] if against else [])


async def test_it_is_told_who_may_heed_any_field() -> None:
    class Pure(Signer):
        replay: ClassVar[Replay] = Replay.PURE

    with capture_logs() as lines:
        async with bench(plugins=lambda services: [Pure(SignerSettings(), services), *three(services)]):
            pass
    assert [line["plugins"] for line in lines if line["event"].startswith("kept answers for equal")] == [["signer"]]


async def test_what_the_fast_lane_did_is_shown() -> None:
    async with bench(plugins=three) as admin:
        assert (await admin.get("/admin/pipeline/stats")).document["fast_lane"] is None
        admin.target.fast_lane = {"replies": 1, "bytes": 2, "hits": 3}
        assert (await admin.get("/admin/pipeline/stats")).document["fast_lane"] == {"replies": 1, "bytes": 2, "hits": 3}


async def test_secrets_of_plugins_are_masked() -> None:
    async with bench(plugins=three) as admin:
        answer = await admin.get("/admin/pipeline")
        assert b"do-not-show" not in answer.raw
        assert answer.document["routes"][0]["plugins"][2]["settings"] == {"enabled": True, "secret": "**********"}


async def test_without_a_cache_there_is_no_left_nor_right() -> None:
    async with bench(plugins=lambda services: [Signer(SignerSettings(), services)]) as admin:
        (plugin,) = (await admin.get("/admin/pipeline")).document["routes"][0]["plugins"]
        assert plugin["place"] is None


async def test_what_every_plugin_counts_is_shown_with_the_routes_it_serves() -> None:
    async with bench(plugins=three) as admin:
        await admin.driven.get("/items/1")
        latency, cache, signer = (await admin.get("/admin/pipeline/stats")).document["plugins"]
        assert latency["stats"]["routes"]["items"]["miss"]["count"] == 1
        assert cache["stats"]["routes"]["items"]["miss"] == 1
        assert signer == {"name": "signer", "routes": ["items", "default"], "stats": {"signed": 3, "oddity": "odd"}}


async def test_a_plugin_whose_counts_cannot_be_read_hides_only_its_own() -> None:
    class Broken(Signer):
        @override
        def stats(self) -> Stats:
            raise ZeroDivisionError

    async with bench(plugins=lambda services: [*three(services), Broken(SignerSettings(), services)]) as admin:
        *_, signer, broken = (await admin.get("/admin/pipeline/stats")).document["plugins"]
        assert signer["stats"]["signed"] == 3
        assert list(broken["stats"]) == ["error"]
