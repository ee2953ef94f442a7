import pytest

from proxy.storage.redis_url import RedisAddress, RedisKind, parse_redis_url

ALONE, SENTINEL, CLUSTER = RedisKind.STANDALONE, RedisKind.SENTINEL, RedisKind.CLUSTER


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", RedisAddress(ALONE, (("cache", 6379),))),
        ("redis://cache:7000/2", RedisAddress(ALONE, (("cache", 7000),), database=2)),
        ("rediss://cache/", RedisAddress(ALONE, (("cache", 6379),), tls=True)),
        ("redis://[::1]:7000", RedisAddress(ALONE, (("::1", 7000),))),
        ("redis://[::1]", RedisAddress(ALONE, (("::1", 6379),))),
        ("redis://me:p%40ss@c", RedisAddress(ALONE, (("c", 6379),), username="me", password="p@ss")),
        ("redis://:p:q@c", RedisAddress(ALONE, (("c", 6379),), password="p:q")),
        ("unix:///run/redis.sock", RedisAddress(ALONE, (), socket="/run/redis.sock")),
        ("unix://:pw@/run/r.sock?db=3", RedisAddress(ALONE, (), socket="/run/r.sock", database=3, password="pw")),
        ("redis+sentinel://a,b:1/main", RedisAddress(SENTINEL, (("a", 26379), ("b", 1)), service="main")),
        ("rediss+sentinel://a/main/4", RedisAddress(SENTINEL, (("a", 26379),), service="main", database=4, tls=True)),
        ("redis+cluster://a,b:7001", RedisAddress(CLUSTER, (("a", 6379), ("b", 7001)))),
        ("rediss+cluster://u:p@a/0", RedisAddress(CLUSTER, (("a", 6379),), username="u", password="p", tls=True)),
    ],
)
def test_an_address_is_read(url: str, address: RedisAddress) -> None:
    assert parse_redis_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://cache",
        "cache:6379",
        "redis://",
        "redis://a,b",
        "redis://cache:port",
        "redis://cache:0",
        "redis://cache:65536",
        "redis://cache/x",
        "redis://cache/1/2",
        "redis://cache/²",
        "redis://cache?db=1",
        "redis://:pa#ss@cache",
        "redis://[::1",
        "redis://[::1]x",
        "unix://",
        "unix:///",
        "unix://host/run/redis.sock",
        "unix:///run/redis.sock?other=1",
        "unix:///run/redis.sock?db",
        "redis+sentinel://a",
        "redis+sentinel://a/main/0/1",
        "redis+cluster://a/1",
        "redis+cluster://a,,b",
    ],
)
def test_what_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_redis_url(url)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(parse_redis_url("redis://:secret@cache"))
    with pytest.raises(ValueError, match=r".") as caught:
        parse_redis_url("redis://:secret@cache/nothing")
    assert "secret" not in str(caught.value)
