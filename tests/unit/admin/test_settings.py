"""`[admin]`."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from proxy.admin.settings import AdminSettings
from tests.support.admin import TOKEN


def read(**settings: Any) -> AdminSettings:
    return AdminSettings.model_validate(settings)


def mistakes(**settings: Any) -> dict[str, str]:
    """What is wrong, by setting."""
    with pytest.raises(ValidationError) as caught:
        read(**settings)
    return {".".join(map(str, part["loc"])): part["msg"] for part in caught.value.errors()}


def test_the_default_is_loopback_without_a_token() -> None:
    settings = AdminSettings()
    assert (str(settings.listen), settings.token) == ("127.0.0.1:9090", None)


@pytest.mark.parametrize("listen", [":9090", "0.0.0.0:9090", "[::]:9090", "10.1.2.3:9090", "sidecar.internal:9090"])
def test_other_addresses_need_a_token_and_the_mistake_says_what_to_do(listen: str) -> None:
    found = mistakes(listen=listen)
    assert list(found) == ["listen"]
    assert "set admin.token" in found["listen"] and "127.0.0.1" in found["listen"]
    assert str(read(listen=listen, token=TOKEN).listen) == listen


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/run/admin.sock"])
def test_loopback_and_unix_sockets_need_none(listen: str) -> None:
    assert read(listen=listen).token is None


@pytest.mark.parametrize(
    "token", ["short", "fifteen-chars-x", "has spaces in it, many", "ünïcödé-is-not-ascii", " " * 20]
)
def test_a_weak_or_unsendable_token_is_one_mistake_that_does_not_show_it(token: str) -> None:
    found = mistakes(listen="0.0.0.0:1", token=token)
    assert list(found) == ["token"]
    assert token not in found["token"]


def test_a_token_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    settings = read(listen="0.0.0.0:1", token_file=tmp_path / "token")
    assert settings.token is not None and settings.token.get_secret_value() == TOKEN
    assert TOKEN not in repr(settings) and TOKEN not in str(settings.model_dump(mode="json"))


def test_token_and_file_may_agree_but_not_differ(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    assert read(token=TOKEN, token_file=tmp_path / "token").token is not None
    assert "they differ" in mistakes(token=f"{TOKEN}-other", token_file=tmp_path / "token")["token"]


def test_a_file_that_cannot_be_read_is_a_mistake_at_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "cannot be read" in mistakes(token_file=tmp_path / "missing")["token_file"]
    assert "cannot be read" in mistakes(token_file=tmp_path / "binary")["token_file"]


def test_unknown_settings_are_mistakes() -> None:
    assert list(mistakes(tokens=TOKEN)) == ["tokens"]
