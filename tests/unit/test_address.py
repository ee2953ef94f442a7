"""Addresses as text."""

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from proxy.address import Address, ListenAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("localhost:0", Address("localhost", 0)),
        ("[::]:8080", Address("::", 8080)),
        ("[::1]:65535", Address("::1", 65535)),
        (":8080", Address("", 8080)),
        ("unix:/run/sidecache.sock", Address(path="/run/sidecache.sock")),
        ("unix:relative.sock", Address(path="relative.sock")),
    ],
)
def test_text_and_address_are_the_same_thing(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no port number"),
        ("8080", "no port number"),
        ("localhost", "no port number"),
        ("localhost:", "no port number"),
        ("localhost:http", "no port number"),
        ("localhost:-1", "no port number"),
        ("localhost:٣", "no port number"),
        ("localhost:65536", "ports end at 65535"),
        ("::1:8080", "stands in brackets"),
        ("[localhost]:80", "brackets around what is no IPv6 address"),
        ("http://localhost:80", "brackets"),
        ("a/b:80", "no host"),
        ("a b:80", "no host"),
        ("unix:", "no socket file"),
        ("unix:/a\0b", "no socket file"),
    ],
)
def test_other_text_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Address.parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1", "localhost:1", "unix:/a"])
def test_loopback(text: str) -> None:
    assert Address.parse(text).loopback


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", ":1", "10.0.0.1:1", "example.com:1"])
def test_not_loopback(text: str) -> None:
    assert not Address.parse(text).loopback


class Table(BaseModel):
    listen: ListenAddress = Address("127.0.0.1", 1)


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TEST_", env_nested_delimiter="__")

    server: Table = Table()


def test_setting_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_SERVER__LISTEN", "[::]:8080")
    assert Settings().server.listen == Address("::", 8080)


def test_setting_is_written_as_a_string_and_described_as_one() -> None:
    assert Table().model_dump(mode="json") == {"listen": "127.0.0.1:1"}
    assert Table.model_json_schema()["properties"]["listen"]["type"] == "string"


def test_setting_that_is_no_string_is_a_mistake() -> None:
    with pytest.raises(ValidationError):
        Table.model_validate({"listen": 8080})
