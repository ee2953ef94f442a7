"""`[server]`."""

from ipaddress import ip_network

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from proxy.address import Address
from proxy.server.settings import ServerSettings


def test_defaults() -> None:
    settings = ServerSettings()
    assert settings.listen == Address("127.0.0.1", 8080)
    assert settings.trusted_proxies == ()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("lsten", "x", "Extra inputs are not permitted"),
        ("listen", "8080", "no port number"),
        ("max_connections", 0, "greater than 0"),
        ("keep_alive_timeout_seconds", 0, "greater than 0"),
        ("write_timeout_seconds", float("inf"), "finite"),
        ("max_body_bytes", -1, "greater than or equal to 0"),
        ("max_target_bytes", 1, "greater than or equal to 64"),
        ("trusted_proxies", ["10.0.0.0/99"], "expected an address or a network"),
        ("trusted_proxies", ["10.0.0.1/8"], "host bits"),
        ("trusted_proxies", [7], "7 is no string"),
        ("name", "side cache", "no token"),
        ("name", "", "no token"),
    ],
)
def test_mistakes_are_named(key: str, value: object, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ServerSettings.model_validate({key: value})
    mistakes = caught.value.errors()
    assert mistakes[0]["loc"][0] == key
    assert words in str(caught.value)


def test_lists_may_be_strings_with_commas() -> None:
    settings = ServerSettings.model_validate(
        {"trusted_proxies": "10.0.0.0/8, ::1 192.0.2.7", "upgrades": "WebSocket,echo"}
    )
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"), ip_network("192.0.2.7"))
    assert settings.upgrades == ("websocket", "echo")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TEST_", env_nested_delimiter="__")

    server: ServerSettings = ServerSettings()


def test_everything_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_SERVER__LISTEN", "unix:/a")
    monkeypatch.setenv("TEST_SERVER__TRUSTED_PROXIES", "10.0.0.0/8,::1")
    monkeypatch.setenv("TEST_SERVER__UPGRADES", "websocket")
    monkeypatch.setenv("TEST_SERVER__MAX_BODY_BYTES", "100")
    settings = Settings().server
    assert settings.listen == Address(path="/a")
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert settings.upgrades == ("websocket",)
    assert settings.max_body_bytes == 100


def test_settings_can_be_written_out_and_read_back() -> None:
    settings = ServerSettings.model_validate({"trusted_proxies": ["10.0.0.0/8"], "listen": "[::1]:9"})
    assert ServerSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_schema_describes_strings() -> None:
    properties = ServerSettings.model_json_schema()["properties"]
    assert properties["listen"]["type"] == "string"
    assert properties["trusted_proxies"]["items"] == {"type": "string"}
