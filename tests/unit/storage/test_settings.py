from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from proxy.storage.settings import CacheTiers, default_lmdb_path


def test_the_defaults_are_memory_and_a_file() -> None:
    tiers = CacheTiers()
    assert tiers.second_tier == "lmdb"
    assert tiers.l1_max_bytes == 64 * 2**20


def test_sizes_are_numbers_or_texts() -> None:
    tiers = CacheTiers.model_validate({"l1_max_bytes": "128MiB", "max_object_bytes": 4096})
    assert tiers.l1_max_bytes == 128 * 2**20
    assert tiers.max_object_bytes == 4096


def test_a_redis_url_alone_chooses_redis() -> None:
    tiers = CacheTiers.model_validate({"redis_url": "redis://:secret@cache:7000/1"})
    assert tiers.second_tier == "redis"
    assert tiers.redis_address.hosts == (("cache", 7000),)
    assert tiers.redis_address.password == "secret"
    assert "secret" not in repr(tiers)
    assert "secret" not in tiers.model_dump_json()


@pytest.mark.parametrize(
    ("table", "where", "what"),
    [
        ({"unknown": 1}, "unknown", "Extra inputs"),
        ({"l1_max_bytes": "many"}, "l1_max_bytes", "byte"),
        ({"l1_max_bytes": True}, "l1_max_bytes", "size"),
        ({"l1_max_bytes": 1}, "l1_max_bytes", "greater"),
        ({"l1_max_object_share": 0}, "l1_max_object_share", "greater"),
        ({"l1_max_object_share": 2}, "l1_max_object_share", "less"),
        ({"lmdb_max_bytes": "1MiB"}, "lmdb_max_bytes", "greater"),
        ({"l2": "disk"}, "l2", "lmdb"),
        ({"l2": "redis"}, "", "redis_url"),
        ({"l2": "none", "redis_url": "redis://cache"}, "", "does not use it"),
        ({"l2": "lmdb", "redis_url": "redis://cache"}, "", "does not use it"),
        ({"max_object_bytes": "10MiB", "lmdb_max_bytes": "16MiB"}, "", "eighth"),
        ({"redis_url": "http://:secret@cache"}, "redis_url", "begins with redis://"),
        ({"redis_prefix": "a{b}"}, "redis_prefix", "pattern"),
        ({"redis_prefix": ""}, "redis_prefix", "at least 1"),
        ({"l2_timeout_ms": 0}, "l2_timeout_ms", "greater"),
        ({"l2_breaker_retry_seconds": float("inf")}, "l2_breaker_retry_seconds", "finite"),
    ],
)
def test_a_mistake_is_named_with_its_place(table: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CacheTiers.model_validate(table)
    [error] = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == where
    assert what in error["msg"]
    assert "secret" not in error["msg"]


def test_a_large_object_may_pass_a_small_file_that_is_not_used() -> None:
    tiers = CacheTiers.model_validate({"max_object_bytes": "10MiB", "lmdb_max_bytes": "16MiB", "l2": "none"})
    assert tiers.second_tier == "none"


def test_the_file_stands_in_the_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_lmdb_path() == Path("/somewhere/sidecache/cache.mdb")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_lmdb_path() == Path("/home/me/.cache/sidecache/cache.mdb")


def test_without_a_home_the_file_stands_below_var_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert default_lmdb_path() == Path("/var/cache/sidecache/cache.mdb")
