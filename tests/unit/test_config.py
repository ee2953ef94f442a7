"""The configuration: strict, all mistakes at once, each with its path."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from plugins import REGISTRY
from proxy.config import ENVIRONMENT_PREFIX, Config, config_model, load
from proxy.errors import ConfigError
from proxy.pipeline.plugin import Plugin, PluginSettings

ROOT = Path(__file__).parents[2]
MINIMAL = '[upstream]\nurl = "http://127.0.0.1:8000"\n'


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(ENVIRONMENT_PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Loads a configuration from text."""

    def read(text: str) -> Config:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return load(path)

    return read


def mistakes(read: Any, text: str) -> dict[str, str]:
    """Path → message of each mistake in `text`."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return {mistake.path: mistake.message for mistake in caught.value.mistakes}


def test_the_shipped_configuration_is_good() -> None:
    config = load(ROOT / "config.toml")
    assert [plugin.name for plugin in config.classes] == list(REGISTRY)


def test_what_the_shipped_configuration_shows_in_comments_is_good(read: Any) -> None:
    text = "\n".join(
        line[2:]
        if line.startswith("# ") and ("=" in line or line.startswith("# [")) and "SIDECACHE_" not in line
        else line
        for line in (ROOT / "config.toml").read_text().splitlines()
        if 'token = "…"' not in line and "redis_url" not in line
    )
    config = read(text)
    assert [route.name for route in config.routes] == ["items", "assets"]


def test_only_the_upstream_is_required(read: Any) -> None:
    assert read(MINIMAL).settings(REGISTRY["compression"]).enabled


def test_a_missing_upstream_is_said_with_its_path(read: Any) -> None:
    assert mistakes(read, "") == {"upstream": "this setting is required"}
    assert mistakes(read, "[upstream]\n") == {"upstream.url": "this setting is required"}


def test_every_mistake_is_told_at_once_each_with_its_path(read: Any) -> None:
    found = mistakes(
        read,
        """
        [upstream]
        url = "http://127.0.0.1:8000"
        [server]
        listen = "nowhere"
        lisden = "x"
        [plugins.cache]
        ttl_seconds = -1
        [plugins.compresion]
        [[routes]]
        name = "items"
        match = { path = "items" }
        plugins.cache = { ttl_secs = 3 }
        """,
    )
    assert set(found) == {
        "server.listen",
        "server.lisden",
        "plugins.cache.ttl_seconds",
        "plugins.compresion",
        "routes[0].match.path",
        "routes[0].plugins.cache.ttl_secs",
    }
    assert "did you mean 'listen'?" in found["server.lisden"]
    assert "did you mean 'compression'?" in found["plugins.compresion"]
    assert "did you mean 'ttl_seconds'?" in found["routes[0].plugins.cache.ttl_secs"]


def test_what_is_no_toml_is_told_with_its_line(read: Any) -> None:
    assert "line 2" in mistakes(read, "[upstream]\nurl = \n")["file"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "missing.toml")


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(path)


def test_one_worker_is_the_default_and_the_environment_can_say_how_many(
    read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(MINIMAL).values.workers == 1
    assert read("workers = 3\n" + MINIMAL).values.workers == 3
    monkeypatch.setenv("SIDECACHE_WORKERS", "2")
    assert read("workers = 3\n" + MINIMAL).values.workers == 2


@pytest.mark.parametrize("number", ["0", "-1", "129", "1.5", '"many"'])
def test_a_number_of_workers_that_makes_no_sense_is_a_mistake(read: Any, number: str) -> None:
    assert list(mistakes(read, f"workers = {number}\n" + MINIMAL)) == ["workers"]


def test_a_text_that_was_kept_gives_the_same_configuration_again(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("workers = 3\n" + MINIMAL)
    config = load(path)
    path.write_text("nonsense")
    assert load(path, config.text).view() == config.view()


def test_the_environment_wins_over_the_file(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECACHE_UPSTREAM__URL", "http://127.0.0.1:9999")
    monkeypatch.setenv("SIDECACHE_PLUGINS__CACHE__TTL_SECONDS", "7")
    config = read(MINIMAL + "[plugins.cache]\nttl_seconds = 5\nmax_ttl_seconds = 9\n")
    assert "9999" in str(config.values.upstream.url)
    settings = config.settings(REGISTRY["cache"])
    assert (settings.ttl_seconds, settings.max_ttl_seconds) == (7, 9)


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECACHE_UPSTREAM__URL", "http://127.0.0.1:9999")
    assert load(None).source == "the environment"


def test_lists_come_from_the_environment(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECACHE_PIPELINE__ORDER", '["latency", "cache"]')
    assert [plugin.name for plugin in read(MINIMAL).classes] == ["latency", "cache"]


def test_a_mistake_in_the_environment_names_the_variable(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECACHE_PLUGINS__CACHE__TTL_SECONDS", "soon")
    assert "SIDECACHE_PLUGINS__CACHE__TTL_SECONDS" in mistakes(read, MINIMAL)["plugins.cache.ttl_seconds"]


def test_a_variable_that_sets_nothing_is_a_mistake(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECACHE_UPSTREEM__URL", "http://127.0.0.1:9999")
    assert "did you mean 'upstream'?" in mistakes(read, MINIMAL)["SIDECACHE_UPSTREEM__URL"]


def test_secrets_come_from_files(read: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-long-enough-secret\n")
    monkeypatch.setenv("SIDECACHE_ADMIN__TOKEN_FILE", str(tmp_path / "token"))
    config = read(MINIMAL)
    assert config.values.admin.token is not None
    assert config.values.admin.token.get_secret_value() == "a-long-enough-secret"
    assert "a-long-enough-secret" not in str(config.view())


def test_a_secret_file_that_cannot_be_read_is_told(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECACHE_ADMIN__TOKEN_FILE", "/nowhere/token")
    assert "/nowhere/token" in mistakes(read, MINIMAL)["SIDECACHE_ADMIN__TOKEN_FILE"]


def test_a_route_says_only_what_differs(read: Any) -> None:
    config = read(
        MINIMAL
        + """
        [plugins.cache]
        ttl_seconds = 5
        sort_query = true
        [[routes]]
        name = "items"
        plugins.cache = { ttl_seconds = 60 }
        [[routes]]
        name = "other"
        """
    )
    cache = REGISTRY["cache"]
    items, other = config.routes
    assert config.settings(cache, items).model_dump(include={"ttl_seconds", "sort_query"}) == {
        "ttl_seconds": 60,
        "sort_query": True,
    }
    assert config.settings(cache, other) == config.settings(cache)


def test_routes_have_names_of_their_own(read: Any) -> None:
    text = MINIMAL + '[[routes]]\nname = "a"\n[[routes]]\nname = "a"\n'
    assert any("two routes" in message for message in mistakes(read, text).values())
    text = MINIMAL + '[[routes]]\nname = "default"\n'
    assert any("no other" in message for message in mistakes(read, text).values())


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ('["cach"]', "did you mean 'cache'?"),
        ('["zzzz"]', "built-in plugins are"),
        ('["no.such.module:Thing"]', "cannot import"),
        ('["proxy.clock:Nothing"]', "has no 'Nothing'"),
        ('["proxy.clock:SystemClock"]', "is no Plugin class"),
        ('["cache", "cache"]', "already"),
    ],
)
def test_a_bad_plugin_name_is_told(read: Any, order: str, words: str) -> None:
    found = mistakes(read, MINIMAL + f"[pipeline]\norder = {order}\n")
    assert any(words in message for path, message in found.items() if path.startswith("pipeline.order"))


class GreeterSettings(PluginSettings):
    """Settings with one that has no default."""

    greeting: str
    times: int = 1


class Greeter(Plugin[GreeterSettings]):
    """An outsider's plugin."""

    name: ClassVar[str] = "greeter"
    settings_type = GreeterSettings


@pytest.fixture
def outsider(monkeypatch: pytest.MonkeyPatch) -> str:
    """The import path of a third-party plugin."""
    module = ModuleType("outsider")
    module.Greeter = Greeter  # type: ignore[attr-defined] # made for the test
    monkeypatch.setitem(sys.modules, "outsider", module)
    return "outsider:Greeter"


def test_an_outsiders_plugin_has_a_table_that_is_checked_like_any_other(read: Any, outsider: str) -> None:
    text = MINIMAL + f'[pipeline]\norder = ["{outsider}", "cache"]\n'
    config = read(text + '[plugins.greeter]\ngreeting = "hi"\n')
    assert config.settings(Greeter).greeting == "hi"
    found = mistakes(read, text + '[plugins.greeter]\ngreeting = "hi"\ntimes = "x"\nspeed = 1\n')
    assert set(found) == {"plugins.greeter.times", "plugins.greeter.speed"}
    assert "plugins" in " ".join(mistakes(read, text))


def test_an_outsider_cannot_take_a_built_in_name(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("impostor")
    module.Cache = type("Cache", (Greeter,), {"name": "cache"})  # type: ignore[attr-defined] # made for the test
    monkeypatch.setitem(sys.modules, "impostor", module)
    found = mistakes(read, MINIMAL + '[pipeline]\norder = ["impostor:Cache"]\n')
    assert "built-in" in found["pipeline.order[0]"]


def test_the_schema_knows_every_table() -> None:
    schema = config_model(()).model_json_schema()
    assert {"server", "admin", "upstream", "cache", "log", "pipeline", "plugins", "routes"} <= set(schema["properties"])
