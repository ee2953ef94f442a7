"""What the documentation shows is what runs."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from plugins.cache import Cache
from plugins.cache.settings import CacheSettings
from proxy.pipeline.plugin import Plugin, PluginSettings, Services
from tests.support.plugin_harness import harness, response
from tests.support.raw_client import RawClient, request
from tests.support.site import site

DOCS = Path(__file__).parents[2] / "docs"


def module_of(monkeypatch: pytest.MonkeyPatch, place: int) -> ModuleType:
    """An example plugin of docs/plugins.md as a module."""
    source = re.findall(r"```python\n(.*?)```", (DOCS / "plugins.md").read_text(), re.DOTALL)[place]
    module = ModuleType(f"my_plugins_{place}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "docs/plugins.md", "exec"), module.__dict__)
    return module


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module_of(monkeypatch, 0)


async def test_the_plugin_that_is_asked_at_each_replay_does_what_its_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of(monkeypatch, 1)

    def plugins(services: Services) -> list[Plugin[Any]]:
        return [module.Gate(PluginSettings(), services), Cache(CacheSettings(), services)]

    fresh = {"Cache-Control": "max-age=60"}
    bench = site(lambda _: response(200, b"body", fresh), plugins=plugins)
    async with bench as one, await RawClient.connect(one.address) as client:
        for number in range(5):
            for language, greeting in (("de", "hallo"), ("en", "hello")):
                fields = (f"Accept-Language: {language}", f"X-Request-ID: {number}")
                assert (await client.ask(request("/", *fields))).field("X-Greeting") == greeting
        assert one.hits == 6
        gate: Any = one.application.pipeline.plugins[0]
        assert gate.stats() == {"seen": 10}
        gate.kept_out.add("127.0.0.1")
        assert (await client.ask(request("/", "Accept-Language: de"))).status == 403
        gate.kept_out.clear()
        assert (await client.ask(request("/", "Accept-Language: de"))).status == 200
        assert one.hits == 7
        assert gate.stats() == {"seen": 12}


async def test_the_example_plugin_does_what_its_page_says(example: ModuleType) -> None:
    async with harness(
        lambda services: [example.Device(example.DeviceSettings(), services)], lambda _: response()
    ) as h:
        phone = await h.get("/", {"User-Agent": "Mozilla/5.0 (iPhone)"})
        await h.get("/")
        own = await h.get("/device", {"User-Agent": "Android"})
        assert phone.header("X-Greeting") == "hello, phone"
        assert phone.exchange.notes == {"device": "phone"}
        assert [request.headers["X-Device"] for request in h.upstream.requests] == ["phone", "other"]
        assert own.body == b"phone"
        (plugin,) = h.pipeline.plugins
        assert isinstance(plugin, Plugin)
        assert plugin.stats() == {"phone": 2, "other": 1}
