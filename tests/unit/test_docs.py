"""What the documentation shows is what runs."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from proxy.pipeline.plugin import Plugin
from tests.support.plugin_harness import harness, response

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example plugin of docs/plugins.md as a module."""
    (source,) = re.findall(r"```python\n(.*?)```", (DOCS / "plugins.md").read_text(), re.DOTALL)
    module = ModuleType("my_plugins_device")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "docs/plugins.md", "exec"), module.__dict__)
    return module


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
