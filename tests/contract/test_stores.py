"""What every `Store` does: memory behind an async face, LMDB, and Redis alone, by socket, with Sentinel, as Cluster."""

import asyncio
from dataclasses import dataclass, replace

import pytest
from redis._parsers import _AsyncHiredisParser
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection

from proxy.clock import Clock
from proxy.http.message import make_headers
from proxy.storage.base import CacheKey, Entry, Record, Store
from proxy.storage.codec import Look
from proxy.storage.memory import MemoryStore
from proxy.storage.packed import pack
from proxy.storage.redis_client import RedisClient, connect, disconnect
from proxy.storage.redis_url import parse_redis_url
from proxy.storage.second_tier import Later
from tests.support.clock import FakeClock
from tests.support.records import NOW, entry, key, marker, same
from tests.support.stores import L2_KINDS, REDIS_KINDS, Backends


@dataclass
class AsyncMemory:
    """`MemoryStore` has the verbs of a `Store` without `async`."""

    store: MemoryStore

    async def get(self, key: CacheKey) -> Record | None:
        return self.store.get(key)

    async def put(self, key: CacheKey, record: Record) -> None:
        self.store.put(key, record)

    async def delete(self, key: CacheKey) -> None:
        self.store.delete(key)

    async def close(self) -> None:
        self.store.close()


def memory(clock: Clock) -> AsyncMemory:
    return AsyncMemory(MemoryStore(64 * 2**20, clock))


@pytest.fixture(params=["memory", *L2_KINDS])
async def store(request: pytest.FixtureRequest, made: Backends) -> Store:
    kind: str = request.param
    return memory(made.clock) if kind == "memory" else await made.second_tier(kind)


async def test_what_was_put_is_found(store: Store) -> None:
    record = entry(body=b"\x00\xff" * 1000, tags=("a", "b"), forms={"br": b"small", "gzip": b"smaller"})
    await store.put(key(), record)
    assert same(await store.get(key()), record)


@pytest.mark.parametrize("kind", L2_KINDS)
async def test_a_packed_entry_is_found_as_it_was(made: Backends, kind: str) -> None:
    tier = await made.second_tier(kind)
    record = entry(body=b"\x00\xff" * 1000, tags=("a", "b"), forms={"br": b"small"})
    assert await tier.write({key(): pack(record, key().primary)})
    assert same(await tier.get(key()), record)


async def test_a_marker_is_found(store: Store) -> None:
    await store.put(key(), marker())
    assert await store.get(key()) == marker()


async def test_what_was_never_put_is_not_found(store: Store) -> None:
    assert await store.get(key("/nowhere")) is None


async def test_variants_and_their_resource_are_different_keys(store: Store) -> None:
    await store.put(key(), marker())
    await store.put(key(variant="one"), entry(body=b"one"))
    await store.put(key(variant="two"), entry(body=b"two"))
    found = [await store.get(key(variant=variant)) for variant in ("one", "two", "three")]
    assert [item.body if isinstance(item, Entry) else item for item in found] == [b"one", b"two", None]
    assert await store.get(key()) == marker()


async def test_the_last_put_wins(store: Store) -> None:
    await store.put(key(), entry(body=b"old"))
    await store.put(key(), marker())
    new = entry(body=b"new")
    await store.put(key(), new)
    assert same(await store.get(key()), new)


async def test_what_was_deleted_is_not_found(store: Store) -> None:
    await store.put(key(), entry())
    await store.put(key("/b"), entry("/b"))
    await store.delete(key())
    assert await store.get(key()) is None
    assert await store.get(key("/b")) is not None


async def test_deleting_what_is_not_there_changes_nothing(store: Store) -> None:
    await store.delete(key())
    assert await store.get(key()) is None


async def test_a_record_that_is_to_be_discarded_is_not_kept(store: Store) -> None:
    await store.put(key(), entry(body=b"old"))
    await store.put(key(), entry(body=b"new", discard_at=NOW))
    assert await store.get(key()) is None


async def test_a_record_without_end_is_kept(store: Store) -> None:
    record = entry(discard_at=float("inf"))
    await store.put(key(), record)
    assert same(await store.get(key()), record)


async def test_bytes_that_are_no_text_survive(store: Store) -> None:
    odd = CacheKey("GET http://example.test/\udcff", "\udcfe")
    record = entry("/\udcff", tags=("\udc80",))
    await store.put(odd, record)
    assert same(await store.get(odd), record)


async def test_alike_records_and_others_by_turns_each_stay_what_they_are(store: Store) -> None:
    def record(number: int) -> Entry:
        made = entry(f"/{number}", purge_id=number)
        fields = [("Server", "x"), ("X-Request-ID", f"{number}"), (f"X-{number % 5 == 4 and number}", "\udcff")]
        changes = replace(made.stored, headers=make_headers(fields), initial_age=-0.0, date=NOW + number / 3)
        return replace(made, stored=changes)

    for number in range(100):
        await store.put(key(f"/{number}"), record(number))
    for number in range(100):
        found = await store.get(key(f"/{number}"))
        assert same(found, record(number))
        assert isinstance(found, Entry)
        assert repr(found.stored) == repr(record(number).stored)


async def test_a_large_body_survives(store: Store) -> None:
    record = entry(body=b"0123456789abcdef" * 2**16)
    await store.put(key(), record)
    assert same(await store.get(key()), record)


async def test_many_readers_of_one_moment_each_get_their_own(store: Store) -> None:
    for number in range(0, 300, 2):
        await store.put(key(f"/{number}"), entry(f"/{number}", body=b"%d" % number))
    found = await asyncio.gather(*(store.get(key(f"/{number}")) for number in range(300)))
    bodies = [item.body if isinstance(item, Entry) else None for item in found]
    assert bodies == [b"%d" % number if number % 2 == 0 else None for number in range(300)]


async def test_a_reader_that_gives_up_takes_nothing_from_the_others(store: Store) -> None:
    await store.put(key(), entry())
    leaver = asyncio.get_running_loop().create_task(store.get(key()))
    stayer = asyncio.get_running_loop().create_task(store.get(key()))
    await asyncio.sleep(0)
    leaver.cancel()
    assert await stayer is not None
    await asyncio.wait({leaver})


async def test_a_closed_store_finds_nothing_and_may_be_closed_again(store: Store) -> None:
    await store.put(key(), entry())
    await store.close()
    await store.close()
    assert await store.get(key()) is None
    await store.delete(key())


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
async def test_a_record_is_discarded_when_its_time_has_come(kind: str, made: Backends, clock: FakeClock) -> None:
    store = memory(clock) if kind == "memory" else await made.second_tier(kind)
    await store.put(key(), entry(discard_at=NOW + 10))
    clock.advance(9.5)
    assert await store.get(key()) is not None
    clock.advance(0.5)
    assert await store.get(key()) is None


# What second tiers do besides.


@pytest.mark.parametrize("kind", L2_KINDS)
async def test_two_stores_of_one_place_share_what_they_hold(kind: str, made: Backends) -> None:
    store = await made.second_tier(kind)
    await store.put(key(), entry())
    await store.close()
    again = await made.second_tier(kind)
    assert same(await again.get(key()), entry())


@pytest.mark.parametrize("kind", L2_KINDS)
async def test_a_batch_is_written_and_counted(kind: str, made: Backends) -> None:
    store = await made.second_tier(kind)
    await store.put(key("/gone"), entry("/gone"))
    assert await store.write({key("/a"): entry("/a"), key("/b"): marker("/b"), key("/gone"): None})
    assert await store.get(key("/a")) is not None
    assert await store.get(key("/b")) is not None
    assert await store.get(key("/gone")) is None
    assert store.stats() | {"hits": 2, "misses": 1, "writes": 4, "errors": 0} == store.stats()
    assert store.health().last_error is None


@pytest.mark.parametrize("kind", L2_KINDS)
async def test_a_record_that_is_too_large_replaces_what_was_there_by_nothing(kind: str, made: Backends) -> None:
    if kind == "lmdb":
        store: Store = await made.lmdb(max_object_bytes=10_000)
    else:
        store = await made.redis(made.url(kind), max_object_bytes=10_000)
    await store.put(key(), entry())
    await store.put(key(), entry(body=b"x" * 10_000))
    assert await store.get(key()) is None


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
async def test_looks_are_counted_when_their_turn_is_over(made: Backends, kind: str) -> None:
    store = await made.second_tier(kind)
    for number in range(3):
        await store.put(key(f"/{number}"), entry())
    before = store.counters.latency.count
    found: list[object] = []
    for number in range(4):
        looked = store.look(key(f"/{number}"))
        if looked is Later.LATER:
            assert store.look_soon(key(f"/{number}"), found.append)
        else:
            found.append(looked)
    while len(found) < 4:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [type(one) for one in found] == [Look, Look, Look, type(None)]
    assert store.counters.as_dict()["hits"] == 3
    assert store.counters.latency.count - before == (3 if kind == "lmdb" else 1)
    assert store.health().last_latency_seconds is not None


async def test_looks_do_not_bring_back_a_tier_that_failed_behind_them_in_their_turn(made: Backends) -> None:
    store = await made.lmdb()
    await store.put(key(), entry())
    assert isinstance(store.look(key()), Look)
    store.breaker.failed("broken", fatal=True)
    assert store.stats()["hits"] == 1
    await asyncio.sleep(0)
    assert not store.breaker.closed
    assert store.stats()["hits"] == 1


@pytest.mark.parametrize("kind", ["redis", "redis-socket", "redis-sentinel"])
async def test_look_ups_of_one_turn_are_one_command(made: Backends, kind: str) -> None:
    store = await made.redis(made.url(kind))
    keys = [key(f"/{number}") for number in range(64)]
    for number, one in enumerate(keys):
        await store.put(one, entry(body=b"%d" % number))
    client = connect(parse_redis_url(made.url(kind)), connect_seconds=5.0, retries=1)
    try:
        before = await _commands(client)
        found = await asyncio.gather(*map(store.get, keys))
        after = await _commands(client)
    finally:
        await disconnect(client)
    assert [record.body for record in found if isinstance(record, Entry)] == [b"%d" % number for number in range(64)]
    assert after.get("cmdstat_mget", 0) - before.get("cmdstat_mget", 0) == 1
    assert after.get("cmdstat_get", 0) - before.get("cmdstat_get", 0) == 0


async def _commands(client: RedisClient) -> dict[str, int]:
    """How often the server ran each command."""
    stats: dict[str, dict[str, int]] = await client.info("commandstats")
    return {name: counted["calls"] for name, counted in stats.items()}


def open_connections(client: RedisClient) -> list[AbstractConnection]:
    if isinstance(client, RedisCluster):
        return [one for node in client.get_nodes() for one in node._connections]
    pool = client.connection_pool
    return [*pool._available_connections, *pool._in_use_connections]


@pytest.mark.parametrize("kind", REDIS_KINDS)
async def test_answers_of_redis_are_parsed_in_c(made: Backends, kind: str) -> None:
    """redis-py falls back to a parser in Python without a word, which costs a read half as much again."""
    store = await made.redis(made.url(kind))
    await store.put(key(), entry())
    assert same(await store.get(key()), entry())
    assert store._client is not None
    parsers = {type(connection._parser) for connection in open_connections(store._client)}
    assert parsers == {_AsyncHiredisParser}
