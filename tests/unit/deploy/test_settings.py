"""The settings that the image, the fleet, the demo and the load test give to the sidecar are settings that it takes."""

import os
from pathlib import Path

import pytest

from deploy.demo.processes import sidecar_settings
from proxy import config
from tests.unit.test_packaging import ROOT, compose, last_stage


def image_environment() -> dict[str, str]:
    settings = " ".join(rest for name, rest in last_stage() if name == "ENV")
    return dict(part.split("=", 1) for part in settings.split())


def use_environment(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith(config.ENVIRONMENT_PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in settings.items():
        if name.startswith(config.ENVIRONMENT_PREFIX):
            monkeypatch.setenv(name, value)


def test_image_environment_is_a_configuration_that_keeps_its_files_in_the_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = image_environment()
    use_environment(monkeypatch, {**settings, "SIDECACHE_UPSTREAM__URL": "http://127.0.0.1:9000"})
    values = config.load(ROOT / "config.toml").values
    volume = dict(last_stage())["VOLUME"]
    assert values.cache.lmdb_path.is_relative_to(volume)
    assert values.admin.listen.loopback
    assert not values.server.listen.loopback


@pytest.mark.parametrize("name", ["sidecar-a", "sidecar-b"])
def test_a_sidecar_of_the_fleet_has_a_configuration_that_is_accepted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {key: str(value) for key, value in compose()["services"][name]["environment"].items()}
    assert settings["SIDECACHE_ADMIN__TOKEN"].startswith("${SIDECACHE_ADMIN_TOKEN:?")
    settings["SIDECACHE_ADMIN__TOKEN"] = "0123456789abcdef0123456789abcdef"
    use_environment(monkeypatch, {**image_environment(), **settings})
    values = config.load(ROOT / "config.toml").values
    assert values.cache.second_tier == "redis"
    subnet = compose()["networks"]["front"]["ipam"]["config"][0]["subnet"]
    assert [str(network) for network in values.server.trusted_proxies] == [subnet]


def test_demo_and_load_test_configure_the_sidecar_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_environment(monkeypatch, sidecar_settings(8080, 9090, "http://127.0.0.1:9000", str(tmp_path)))
    values = config.load(ROOT / "config.toml").values
    assert values.cache.lmdb_path.is_relative_to(tmp_path)
