"""Redis that dies, hangs, forgets, refuses, or holds something else: a miss and a counter, never an error or a wait."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from math import inf
from pathlib import Path
from time import monotonic
from typing import Self

import pytest

from proxy.storage.base import CacheKey, Entry, Record
from proxy.storage.breaker import TierState
from proxy.storage.codec import Look
from proxy.storage.invalidation_log import Purge, PurgeScope
from proxy.storage.redis import RedisStore
from tests.support.clock import FakeClock
from tests.support.ports import free_port
from tests.support.records import entry, key, same, until
from tests.support.redis_server import RedisServer
from tests.support.stores import Backends, RedisServers, backends

BUDGET = 0.2


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of its own for each test: it will be hurt."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Backends]:
    async with backends(FakeClock(), RedisServers(), tmp_path) as made:
        yield made


def name_of(made: Backends, path: str = "/a") -> str:
    return f"{made.prefix}:{key(path).digest().hex()}"


async def until_found(store: RedisStore, name: CacheKey, record: Entry) -> None:
    async with asyncio.timeout(30):
        while (found := await store.get(name)) is None:
            await asyncio.sleep(0.01)
    assert same(found, record)


class Relay:
    """Stands before the server on `target`, and can hold back what that answers. An async context manager.

    Attributes:
        port: where the client connects.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._left = inf
        self._serving: list[asyncio.Task[None]] = []
        self._server: asyncio.Server

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def hold_after(self, count: int) -> None:
        """Let so many bytes of answers through, and hold back what follows."""
        self._left = count
        self._flowing.clear()

    def release(self) -> None:
        """Let everything through, what was held back first."""
        self._left = inf
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.append(task)
        there, to_there = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass(reader, to_there))
                tasks.create_task(self._pass(there, writer, answers=True))
        finally:
            for end in (writer, to_there):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                if answers:
                    self._left -= len(data)
                    if self._left < 0:
                        await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_a_killed_redis_is_a_miss_until_it_is_back(made: Backends, server: RedisServer) -> None:
    store = await made.redis(server.url)
    await store.put(key(), entry())
    assert await store.get(key()) is not None
    server.kill()
    for _ in range(3):
        assert await store.get(key()) is None
    health = store.health()
    assert health.state is TierState.DOWN
    assert health.last_error is not None
    assert store.stats()["errors"] == 3
    assert await store.get(key()) is None
    assert store.stats()["skipped"] == 1
    server.start()
    await until(lambda: store.health().state is TierState.UP)
    await store.put(key(), entry())
    assert same(await store.get(key()), entry())


async def test_a_redis_that_is_down_at_the_start_is_waited_for(made: Backends, server: RedisServer) -> None:
    server.kill()
    store = await made.redis(server.url)
    log = await made.redis_log(server.url, timeout_seconds=BUDGET)
    assert store.health().state is TierState.DOWN
    assert not log.ready
    server.start()
    await until(lambda: store.breaker.closed and log.ready)
    await store.put(key(), entry())
    assert await store.get(key()) is not None


async def test_nobody_at_the_address_is_no_error(made: Backends) -> None:
    store = await made.redis(f"redis://127.0.0.1:{free_port()}/0")
    assert await store.get(key()) is None
    assert await store.write({key(): entry()}) is False


async def test_a_hanging_redis_costs_its_time_budget_and_then_nothing(made: Backends, server: RedisServer) -> None:
    store = await made.redis(server.url, timeout_seconds=BUDGET, max_failures=2)
    await store.put(key(), entry())
    with server.frozen():
        began = monotonic()
        assert await asyncio.gather(*(store.get(key(f"/{number}")) for number in range(50))) == [None] * 50
        assert await store.get(key()) is None
        assert monotonic() - began < 10 * BUDGET
        assert store.stats()["timeouts"] == 51
        assert not store.breaker.closed
        assert await store.get(key()) is None
        assert store.stats()["timeouts"] == 51
    await until(lambda: store.breaker.closed)
    assert same(await store.get(key()), entry())


async def test_an_answer_that_comes_too_late_is_taken_for_no_other(made: Backends, server: RedisServer) -> None:
    store = await made.redis(server.url, timeout_seconds=BUDGET, max_failures=1000)
    records = {key(f"/{number}"): entry(f"/{number}", body=b"%d" % number) for number in range(8)}
    for name, record in records.items():
        await store.put(name, record)

    async def look(number: int, name: CacheKey) -> Record | None:
        await asyncio.sleep(number / 100)  # each on a connection of its own
        return await store.get(name)

    with server.frozen():
        assert await asyncio.gather(*(look(*each) for each in enumerate(records))) == [None] * 8
    for name, record in list(records.items()) * 4:  # the late answers come now
        found = await store.get(name)
        assert found is None or same(found, record)
    for name, record in records.items():
        await until_found(store, name, record)


async def test_who_only_looks_is_told_once_even_by_a_hanging_redis(made: Backends, server: RedisServer) -> None:
    store = await made.redis(server.url, timeout_seconds=BUDGET, max_failures=1000)
    await store.put(key(), entry())
    told: list[list[object]] = [[] for _ in range(4)]
    with server.frozen():
        assert store.look_soon(key(), told[0].append)
        waiting = asyncio.ensure_future(store.get(key()))
        await asyncio.sleep(0)
        assert store.look_soon(key(), told[1].append)
        assert await waiting is None
    assert told == [[None], [None], [], []]
    await until_found(store, key(), entry())
    waiting = asyncio.ensure_future(store.get(key()))
    await asyncio.sleep(0)
    assert store.look_soon(key(), told[2].append)
    assert store.look_soon(key("/other"), told[3].append)
    assert await waiting is not None
    assert [len(one) for one in told] == [1, 1, 1, 1]
    assert isinstance(told[2][0], Look)
    assert told[3] == [None]


async def test_what_follows_half_an_answer_is_read_on_another_connection(made: Backends, server: RedisServer) -> None:
    async with Relay(server.port) as relay:
        store = await made.redis(f"redis://127.0.0.1:{relay.port}/0", timeout_seconds=BUDGET, max_failures=1000)
        long, short = entry("/long", body=b"$1\r\n" * 20_000), entry("/short", body=b"short")
        await store.put(key("/long"), long)
        await store.put(key("/short"), short)
        await until_found(store, key("/long"), long)
        relay.hold_after(50_000)
        assert await store.get(key("/long")) is None
        assert store.stats()["timeouts"] == 1
        relay.release()
        for _ in range(4):
            for name, record in ((key("/short"), short), (key("/long"), long)):
                found = await store.get(name)
                assert found is None or same(found, record)
        await until_found(store, key("/short"), short)
        await until_found(store, key("/long"), long)


async def test_requests_beside_a_hanging_redis_are_answered_within_the_budget(
    made: Backends, server: RedisServer
) -> None:
    l2 = await made.redis(server.url, timeout_seconds=BUDGET)
    log = await made.redis_log(server.url, timeout_seconds=BUDGET)
    store = await made.tiered(l2, log)
    with server.frozen():
        began = monotonic()
        assert await store.get(key()) is None
        store.put(key("/b"), entry("/b"))
        found = await store.get(key("/b"))
        assert found is not None
        assert found.tier == "l1"
        appended = await log.append(PurgeScope.URL, "http://example.test/b")
        assert not appended.shared
        assert store.get_local(key("/b")) is None
        assert monotonic() - began < 20 * BUDGET


async def test_other_types_under_our_keys_are_misses_and_are_written_over(made: Backends, server: RedisServer) -> None:
    store = await made.redis(server.url)
    server.command("lpush", name_of(made), "an element")
    server.command("hset", name_of(made, "/b"), "a", "b")
    assert await store.get(key()) is None
    assert await store.get(key("/b")) is None
    assert store.health().last_error is None
    await store.put(key(), entry())
    assert same(await store.get(key()), entry())


@pytest.mark.parametrize("garbage", ["", "x", "ScR", "garbage" * 1000])
async def test_garbage_under_our_keys_is_a_miss_and_is_counted(
    made: Backends, server: RedisServer, garbage: str
) -> None:
    store = await made.redis(server.url)
    server.command("set", name_of(made), garbage)
    assert await store.get(key()) is None
    assert store.stats() | {"undecodable": 1, "errors": 0, "hits": 0} == store.stats()


async def test_a_redis_without_memory_refuses_writes_and_is_read_all_the_same(
    made: Backends, server: RedisServer
) -> None:
    store = await made.redis(server.url)
    await store.put(key(), entry())
    server.command("config", "set", "maxmemory", "1mb", "maxmemory-policy", "noeviction")
    assert await store.write({key("/b"): entry("/b", body=b"x" * 100_000)}) is False
    assert store.breaker.closed
    assert "OutOfMemory" in (store.health().last_error or "")
    assert same(await store.get(key()), entry())
    assert await store.write({key(): None})
    assert await store.get(key()) is None


async def test_what_redis_could_not_take_leaves_nothing_older_behind(made: Backends, server: RedisServer) -> None:
    store = await made.tiered(await made.redis(server.url), await made.memory_log())
    store.put(key(), entry(body=b"old"))
    await store.flush()
    server.command("config", "set", "maxmemory", "1mb", "maxmemory-policy", "noeviction")
    store.put(key(), entry(body=b"new" * 50_000))
    await until(lambda: server.command("exists", name_of(made)) == "0")


async def test_a_record_lives_in_redis_until_it_is_to_be_discarded(made: Backends, server: RedisServer) -> None:
    store = await made.redis(server.url)
    await store.put(key(), entry(discard_at=made.clock.wall() + 100))
    assert 90_000 < int(server.command("pttl", name_of(made))) <= 100_000


async def test_a_password_is_needed_and_given(made: Backends) -> None:
    with RedisServer("--requirepass", "p@ss/word") as server:
        assert (await made.redis(server.url)).health().state is TierState.DOWN
        store = await made.redis(f"redis://:p%40ss%2Fword@127.0.0.1:{server.port}/3")
        await store.put(key(), entry())
        assert await store.get(key()) is not None
        wrong = await made.redis(f"redis://:wrong@127.0.0.1:{server.port}/3")
        assert wrong.health().state is TierState.DOWN


# The invalidation log.


async def test_a_purge_while_redis_is_down_holds_here_and_is_sent_on(made: Backends, server: RedisServer) -> None:
    log = await made.redis_log(server.url)
    server.kill()
    appended = await log.append(PurgeScope.TAG, "t")
    assert not appended.shared
    assert log.newest_match(key().primary, entry(tags=("t",))) == appended.purge
    assert not (await log.append(PurgeScope.URL, "http://example.test/b", soft=True)).shared
    assert log.pending == 2
    server.start()
    await until(lambda: log.pending == 0)
    other = await made.redis_log(server.url)
    found = other.newest_match(key().primary, entry(tags=("t",)))
    assert found is not None
    assert found.at == appended.purge.at
    assert other.newest_match(key("/b").primary, entry("/b")) is not None
    assert (await log.append(PurgeScope.ALL, "")).shared


async def test_a_sidecar_that_was_cut_off_reads_on(made: Backends, server: RedisServer) -> None:
    here, there = await made.redis_log(server.url), await made.redis_log(server.url)
    heard: list[Purge | None] = []
    there.subscribe(heard.append)
    await here.append(PurgeScope.TAG, "1")
    await until(lambda: len(heard) == 1)
    server.command("client", "kill", "type", "normal")
    await until(lambda: not there.connected)
    second = (await here.append(PurgeScope.TAG, "2")).purge
    await until(lambda: len(heard) >= 2)
    await until(lambda: there.connected)
    assert second.value == "2"
    assert [purge.value if purge is not None else None for purge in heard] == ["1", "2"]


async def test_a_log_that_was_lost_costs_everything_local(made: Backends, server: RedisServer) -> None:
    log = await made.redis_log(server.url)
    heard: list[Purge | None] = []
    log.subscribe(heard.append)
    purge = (await log.append(PurgeScope.TAG, "t")).purge
    await until(lambda: log.connected)
    server.kill()
    server.start()  # empty
    await until(lambda: None in heard)
    assert log.newest_match("", entry("/b", purge_id=purge.id)) is not None
    assert log.newest_match("", entry("/b", purge_id=log.last_seen)) is None
    appended = await log.append(PurgeScope.URL, "http://example.test/b")
    assert appended.purge.id > purge.id


async def test_a_log_trimmed_beyond_what_was_read_costs_everything_local(made: Backends, server: RedisServer) -> None:
    log = await made.redis_log(server.url)
    heard: list[Purge | None] = []
    log.subscribe(heard.append)
    purge = (await log.append(PurgeScope.TAG, "t")).purge
    other = await made.redis_log(server.url)
    stream = f"{made.prefix}:purges"
    await log.close()  # cut off
    for number in range(5):
        await other.append(PurgeScope.TAG, str(number))
    server.command("xtrim", stream, "maxlen", "2")
    await log.start()
    await until(lambda: None in heard)
    assert log.newest_match("", entry("/b", purge_id=purge.id)) is not None


async def test_a_record_of_the_log_that_says_nothing_voids_everything_older(
    made: Backends, server: RedisServer
) -> None:
    log = await made.redis_log(server.url)
    heard: list[Purge | None] = []
    log.subscribe(heard.append)
    server.command("xadd", f"{made.prefix}:purges", "*", "other", "field")
    await until(lambda: heard == [None])
    assert log.newest_match("", entry()) is not None


async def test_something_else_in_the_place_of_the_log_leaves_purges_pending(
    made: Backends, server: RedisServer
) -> None:
    server.command("set", f"{made.prefix}:purges", "no stream")
    log = await made.redis_log(server.url)
    assert not log.ready
    assert not (await log.append(PurgeScope.TAG, "t")).shared
    server.command("del", f"{made.prefix}:purges")
    await until(lambda: log.ready and log.pending == 0)


async def test_l2_is_not_asked_before_the_log_was_read(made: Backends, server: RedisServer) -> None:
    l2 = await made.redis(server.url)
    assert isinstance(l2, RedisStore)
    await l2.put(key(), entry())
    server.command("set", f"{made.prefix}:purges", "no stream")
    store = await made.tiered(l2, await made.redis_log(server.url, started=False))
    assert await store.get(key()) is None
    server.command("del", f"{made.prefix}:purges")
    await until(lambda: store.log.ready)
    found = await store.get(key())
    assert found is not None
    assert found.tier == "l2"
