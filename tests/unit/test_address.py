"""Addresses as text."""

import socket
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from proxy.address import Address, ListenAddress, remove_stale_socket


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


def test_a_socket_that_nobody_answers_at_is_removed_and_others_are_left(tmp_path: Path) -> None:
    stale, alive, file = tmp_path / "stale", tmp_path / "alive", tmp_path / "file"
    file.write_text("data")
    with socket.socket(socket.AF_UNIX) as dead, socket.socket(socket.AF_UNIX) as listening:
        dead.bind(str(stale))
        dead.close()
        listening.bind(str(alive))
        listening.listen()
        for path in (stale, file, tmp_path / "nothing"):
            remove_stale_socket(path)
        with pytest.raises(OSError, match="in use"):
            remove_stale_socket(alive)
    assert {path.name for path in tmp_path.iterdir()} == {"alive", "file"}


def test_the_address_of_a_socket_has_the_port_that_the_system_chose(tmp_path: Path) -> None:
    with socket.socket() as bound, socket.socket(socket.AF_UNIX) as unix:
        bound.bind(("127.0.0.1", 0))
        unix.bind(str(tmp_path / "s"))
        assert Address.of(bound) == Address("127.0.0.1", bound.getsockname()[1])
        assert Address.of(unix) == Address(path=str(tmp_path / "s"))
