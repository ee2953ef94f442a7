import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typing_extensions import override

from proxy.metrics.registry import Registry
from proxy.storage import lmdb_log
from proxy.storage.base import CacheKey, Entry, Record
from proxy.storage.breaker import Breaker
from proxy.storage.codec import Look
from proxy.storage.invalidation_log import PurgeScope
from proxy.storage.packed import PackedEntry, pack, unpack
from proxy.storage.second_tier import LATER, Batch, Later, SecondTier, TierFailedError
from proxy.storage.tiered import TieredStore
from proxy.storage.write_behind import MAX_WAITING_BYTES, MAX_WAITING_RECORDS
from tests.support.clock import FakeClock
from tests.support.records import NOW, entry, key, marker, same, until
from tests.support.stores import Backends, RedisServers, backends


class ScriptedTier(SecondTier):
    """An L2 in a dict that can be held up, and can fail."""

    def __init__(self, made: Backends, *, probe_seconds: float = 0.01) -> None:
        breaker = Breaker("scripted", made.clock, max_failures=2)
        super().__init__("scripted", made.clock, made.tasks, Registry(), breaker, probe_seconds)
        self.held: dict[CacheKey, Record] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.failing = False
        self.reads = 0
        self.batches: list[Batch] = []

    @override
    async def _probe(self) -> None:
        if self.failing:
            raise TierFailedError("scripted")

    @override
    async def get(self, key: CacheKey) -> Record | None:
        self.reads += 1
        record = self.held.get(key)
        await self.open.wait()  # the answer is on its way: what happens meanwhile, it does not know
        return record

    @override
    async def write(self, batch: Batch) -> bool:
        await self.open.wait()
        if self.failing:
            self.breaker.failed("scripted", fatal=True)
            return False
        self.batches.append(batch)
        for name, record in batch.items():
            if record is None:
                self.held.pop(name, None)
            else:
                self.held[name] = unpack(record, name.primary) if isinstance(record, PackedEntry) else record
        return True


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def made(clock: FakeClock, tmp_path: Path) -> AsyncIterator[Backends]:
    async with backends(clock, RedisServers(), tmp_path) as made:
        yield made


@pytest.fixture
def l2(made: Backends) -> ScriptedTier:
    return ScriptedTier(made)


async def test_what_was_put_is_in_l1_at_once_and_in_l2_soon(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    store.put(key(), entry())
    assert store.get_local(key()) is not None
    await store.flush()
    assert key() in l2.held
    assert l2.reads == 0


async def test_what_l2_has_is_kept_in_l1_from_then_on(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    l2.held[key()] = entry()
    assert store.get_local(key()) is None
    found = await store.get(key())
    assert found is not None
    assert found.tier == "l2"
    assert store.get_local(key()) is found.record
    again = await store.get(key())
    assert again is not None
    assert again.tier == "l1"
    assert l2.reads == 1


async def test_without_an_l2_there_is_l1(made: Backends) -> None:
    store = await made.tiered(None, await made.memory_log())
    store.put(key(), entry())
    assert await store.get(key()) is not None
    assert await store.get(key("/b")) is None
    store.delete(key())
    assert await store.get(key()) is None
    await store.flush()
    assert store.health() is None
    assert store.stats()["l2"] is None


async def test_whoever_puts_has_what_was_put_long_ago_packed(made: Backends) -> None:
    store = await made.tiered(None, await made.memory_log())
    store.put(key("/a"), entry("/a"))
    whole = store.l1.bytes
    store.put(key("/b"), entry("/b"))
    await asyncio.sleep(0)
    assert store.l1.bytes == 2 * whole, "neither is long ago"
    store.l1.next_turn()
    store.put(key("/c"), entry("/c"))
    assert store.l1.bytes == 3 * whole, "nobody waits for it"
    await asyncio.sleep(0)
    assert store.l1.bytes < 2.5 * whole


async def test_what_waits_to_be_written_is_found_before_l2_is_asked(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log(), l1_bytes=5000)
    l2.held[key("/gone")] = entry("/gone")
    l2.open.clear()
    store.put(key(), entry(body=b"x" * 6000))  # too large for L1
    store.delete(key("/gone"))
    assert store.get_local(key()) is None
    assert await store.get(key()) is not None
    assert await store.get(key("/gone")) is None
    await asyncio.sleep(0)  # the write is under way, and held up
    assert await store.get(key()) is not None
    assert await store.get(key("/gone")) is None
    assert l2.reads == 0
    l2.open.set()
    await store.flush()
    assert set(l2.held) == {key()}


async def test_a_record_put_while_l2_is_asked_wins(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    l2.held[key()] = entry(body=b"old")
    l2.open.clear()
    asking = asyncio.get_running_loop().create_task(store.get(key()))
    await until(lambda: l2.reads == 1)
    new = entry(body=b"new")
    store.put(key(), new)
    l2.open.set()
    found = await asking
    assert found is not None
    assert found.record is new


async def test_a_record_deleted_while_l2_is_asked_does_not_come_back(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    l2.held[key()] = entry()
    l2.open.clear()
    asking = asyncio.get_running_loop().create_task(store.get(key()))
    await until(lambda: l2.reads == 1)
    store.delete(key())
    l2.open.set()
    await until(lambda: not l2.held)
    assert await asking is None
    assert store.get_local(key()) is None
    store.put(key(), entry())
    await store.flush()
    store.l1.clear()
    assert await store.get(key()) is not None


async def test_a_record_purged_while_l2_is_asked_does_not_come_back(made: Backends, l2: ScriptedTier) -> None:
    log = await made.memory_log()
    store = await made.tiered(l2, log)
    l2.held[key()] = entry()
    l2.open.clear()
    asking = asyncio.get_running_loop().create_task(store.get(key()))
    await until(lambda: l2.reads == 1)
    await log.append(PurgeScope.URL, "http://example.test/a")
    l2.open.set()
    assert await asking is None
    await store.flush()
    assert key() not in l2.held


def refreshed(body: bytes = b"new") -> Entry:
    held = entry(body=body)
    return replace(held, stored=replace(held.stored, response_time=NOW + 1))


async def test_what_another_sidecar_refreshed_takes_the_place_of_what_l1_has(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    held = entry()
    store.put(key(), held)
    await store.flush()
    assert await store.get_newer(key(), held) is None
    l2.held[key()] = new = refreshed()
    assert await store.get_newer(key(), held) is new
    assert store.get_local(key()) is new


async def test_what_is_newer_in_l2_gives_way_to_a_put_or_purge_meanwhile(made: Backends, l2: ScriptedTier) -> None:
    log = await made.memory_log()
    store = await made.tiered(l2, log)
    for overtake in ("put", "purge"):
        held = entry()
        store.put(key(), held)
        await store.flush()
        l2.held[key()] = refreshed()
        l2.open.clear()
        reads = l2.reads
        asking = asyncio.get_running_loop().create_task(store.get_newer(key(), held))
        await until(lambda reads=reads: l2.reads > reads)  # type: ignore[misc]  # mypy infers no default's type here
        if overtake == "put":
            store.put(key(), entry())
        else:
            await log.append(PurgeScope.URL, "http://example.test/a")
        l2.open.set()
        assert await asking is None
        await store.flush()


async def test_nothing_is_newer_without_an_l2(made: Backends) -> None:
    store = await made.tiered(None, await made.memory_log())
    store.put(key(), held := entry())
    assert await store.get_newer(key(), held) is None


SCOPES = [
    (PurgeScope.KEY, "GET http://example.test/a"),
    (PurgeScope.URL, "http://example.test/a"),
    (PurgeScope.PREFIX, "http://example.test/a"),
    (PurgeScope.TAG, "t"),
    (PurgeScope.ALL, ""),
]


@pytest.mark.parametrize(("scope", "value"), SCOPES)
async def test_a_hard_purge_takes_from_both_tiers(
    made: Backends, l2: ScriptedTier, scope: PurgeScope, value: str
) -> None:
    log = await made.memory_log()
    store = await made.tiered(l2, log)
    store.put(key(variant="1"), entry(tags=("t",)))
    store.put(key("/b"), entry("/b"))
    await store.flush()
    await log.append(scope, value)
    assert store.get_local(key(variant="1")) is None
    assert (store.get_local(key("/b")) is None) == (scope is PurgeScope.ALL)
    assert await store.get(key(variant="1")) is None
    await store.flush()
    assert key(variant="1") not in l2.held


@pytest.mark.parametrize(("scope", "value"), SCOPES)
async def test_a_soft_purge_makes_stale_in_both_tiers(
    made: Backends, l2: ScriptedTier, clock: FakeClock, scope: PurgeScope, value: str
) -> None:
    log = await made.memory_log()
    store = await made.tiered(l2, log)
    store.put(key(), marker())
    store.put(key(variant="1"), entry(tags=("t",)))
    store.put(key("/b"), entry("/b"))
    await store.flush()
    clock.advance(5)
    await log.append(scope, value, soft=True)
    here = store.get_local(key(variant="1"))
    assert isinstance(here, Entry)
    assert here.stored.fresh_until <= clock.wall()
    assert store.get_local(key()) == marker()
    other = store.get_local(key("/b"))
    assert isinstance(other, Entry)
    assert (other.stored.fresh_until > clock.wall()) == (scope is not PurgeScope.ALL)
    store.l1.clear()
    found = await store.get(key(variant="1"))
    assert found is not None
    assert isinstance(found.record, Entry)
    assert found.record.stored.fresh_until == here.stored.fresh_until
    found = await store.get(key())
    assert found is not None
    assert found.record == marker()


async def test_what_is_put_packed_is_found_everywhere_as_it_was(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    record = entry(tags=("t",))
    l2.open.clear()
    store.put_packed(key(), pack(record, key().primary), record.purge_id)
    assert same(store.get_local(key()), record)
    store.l1.delete(key())
    waiting = await store.get(key())
    assert waiting is not None
    assert same(waiting.record, record)
    store.l1.delete(key())
    l2.open.set()
    await store.flush()
    found = await store.get(key())
    assert found is not None
    assert found.tier == "l2"
    assert same(found.record, record)


async def test_a_purge_during_a_fetch_wins_over_what_is_put_packed(made: Backends, l2: ScriptedTier) -> None:
    log = await made.memory_log()
    store = await made.tiered(l2, log)
    began = log.last_seen
    await log.append(PurgeScope.URL, "http://example.test/a")
    await log.append(PurgeScope.URL, "http://example.test/late", soft=True)
    for name in ("/a", "/late", "/other"):
        store.put_packed(key(name), pack(entry(name, purge_id=began), key(name).primary), began)
    assert store.get_local(key()) is None
    late = store.get_local(key("/late"))
    assert isinstance(late, Entry)
    assert late.stored.fresh_until <= NOW
    assert same(store.get_local(key("/other")), entry("/other", purge_id=began))
    await store.flush()
    assert key() not in l2.held


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("evicted", [False, True], ids=["in L1", "evicted"])
@pytest.mark.parametrize("scope", [PurgeScope.TAG, PurgeScope.URL, PurgeScope.ALL])
@pytest.mark.parametrize("read", ["as it waits", "when it is written"])
async def test_what_was_put_packed_and_waits_for_l2_is_purged_as_any(
    made: Backends, l2: ScriptedTier, scope: PurgeScope, read: str, *, soft: bool, evicted: bool
) -> None:
    log = await made.memory_log()
    store = await made.tiered(l2, log)
    l2.open.clear()
    packed = pack(entry(tags=("t",)), key().primary)
    store.put_packed(key(), packed, 0)
    if evicted:
        store.l1.delete(key())
    value = {PurgeScope.TAG: "t", PurgeScope.URL: "http://example.test/a", PurgeScope.ALL: ""}[scope]
    await log.append(scope, value, soft=soft)
    if read == "when it is written":
        l2.open.set()
        await store.flush()
        store.l1.delete(key())
    found = await store.get(key())
    if not soft:
        assert found is None
    else:
        assert found is not None
        assert isinstance(found.record, Entry)
        assert found.record.stored.fresh_until <= NOW
        assert found.record.body is packed.body
    l2.open.set()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("asked", ["by get", "by look", "by nobody"])
async def test_a_purge_of_another_worker_wins_over_what_was_fetched_before_it_was_heard_of(
    made: Backends, monkeypatch: pytest.MonkeyPatch, asked: str, *, soft: bool
) -> None:
    monkeypatch.setattr(lmdb_log, "FOLLOW_SECONDS", 3600.0)
    l2 = await made.lmdb()
    here, there = await made.lmdb_log(l2), await made.lmdb_log(l2)
    store = await made.tiered(l2, here)
    record = entry(tags=("t",), purge_id=here.last_seen)
    await there.append(PurgeScope.TAG, "t", soft=soft)
    store.put_packed(key(), pack(record, key().primary), record.purge_id)
    await store.flush()
    assert here.last_seen == record.purge_id < there.last_seen
    if asked == "by nobody":
        here.refresh()
    else:
        store.l1.delete(key())
    if asked == "by look":
        assert store.look_beyond(key()) is None
        assert here.last_seen == there.last_seen
    found = await store.get(key())
    if not soft:
        assert found is None
    else:
        assert found is not None
        assert isinstance(found.record, Entry)
        assert found.record.stored.softened
        assert found.record.stored.fresh_until <= NOW


class LateTier(ScriptedTier):
    """One that says later what it has to say of a key."""

    @override
    def look_soon(self, key: CacheKey, done: Callable[[Look | Later | None], None]) -> bool:
        record = self.held.get(key)
        asyncio.get_running_loop().call_soon(done, None if record is None else LATER)
        return True


async def look(store: TieredStore) -> None:
    told = asyncio.get_running_loop().create_future()
    assert store.look_soon(key(), told.set_result)
    assert await told is None


async def test_l2_is_not_asked_again_for_what_it_has_just_said_not_to_have(made: Backends) -> None:
    l2 = LateTier(made)
    store = await made.tiered(l2, await made.memory_log())
    await look(store)
    assert await store.get(key()) is None
    assert l2.reads == 0
    assert l2.counters.misses.value == 1
    assert await store.get(key()) is None
    assert l2.reads == 1


async def test_what_was_written_since_l2_did_not_have_it_is_found(made: Backends) -> None:
    l2 = LateTier(made)
    store = await made.tiered(l2, await made.memory_log())
    await look(store)
    store.put(key(), entry())
    await store.flush()
    store.l1.delete(key())
    assert await store.get(key()) is not None


async def test_a_purge_during_a_fetch_wins(made: Backends, l2: ScriptedTier) -> None:
    log = await made.memory_log()
    store = await made.tiered(l2, log)
    began = log.last_seen
    await log.append(PurgeScope.URL, "http://example.test/a")
    store.put(key(), entry(purge_id=began))
    assert store.get_local(key()) is None
    store.put(key("/soft"), entry("/soft", purge_id=began))
    await log.append(PurgeScope.URL, "http://example.test/late", soft=True)
    store.put(key("/late"), entry("/late", purge_id=began))
    late = store.get_local(key("/late"))
    assert isinstance(late, Entry)
    assert late.stored.fresh_until <= NOW
    await store.flush()
    assert key() not in l2.held


async def test_missed_purges_empty_l1(made: Backends, l2: ScriptedTier) -> None:
    log = await made.memory_log()
    store = await made.tiered(l2, log)
    store.put(key(), entry())
    log._index.lose(log.last_seen + 1)
    assert store.get_local(key()) is None
    assert await store.get(key()) is None


async def test_a_form_is_kept_in_both_tiers(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    record = entry()
    store.put(key(), record)
    grown = store.attach_form(key(), record, "br", b"small")
    assert grown is not None
    assert grown.forms == {"br": b"small"}
    await store.flush()
    assert same(l2.held[key()], grown)
    assert store.attach_form(key("/none"), record, "br", b"small") is None


async def test_what_l2_has_beyond_its_time_is_no_hit(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    l2.held[key()] = entry(discard_at=NOW)
    assert await store.get(key()) is None


async def test_closing_writes_what_waits(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    for number in range(1000):
        store.put(key(f"/{number}"), entry(f"/{number}"))
    await store.close()
    assert len(l2.held) == 1000
    assert all(len(batch) <= 256 for batch in l2.batches)
    await store.close()


async def test_a_store_that_was_never_started_can_be_closed(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log(), started=False)
    await store.close()


async def test_what_l2_does_not_take_is_deleted_there_when_it_is_back(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    store.put(key(), entry(body=b"old"))
    store.put(key("/b"), entry("/b"))
    await store.flush()
    l2.failing = True
    store.put(key(), entry(body=b"new"))
    await store.flush()
    assert not l2.breaker.closed
    store.delete(key("/b"))
    store.put(key("/c"), entry("/c"))
    await store.flush()
    store.l1.clear()
    assert await store.get(key()) is None
    l2.failing = False
    await until(lambda: not l2.held)
    store.put(key(), entry(body=b"newest"))
    await store.flush()
    assert key() in l2.held


async def test_the_queue_is_bounded_in_bytes_and_drops_what_does_not_fit(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    l2.open.clear()
    body = b"x" * (MAX_WAITING_BYTES // 10)
    for number in range(20):
        store.put(key(f"/{number}"), entry(f"/{number}", body))
    stats = store.stats()["l2"]
    assert isinstance(stats, dict)
    assert stats["waiting_bytes"] <= MAX_WAITING_BYTES
    assert stats["dropped_writes"] == 11
    assert await store.get(key("/19")) is not None or l2.reads == 0
    l2.open.set()
    await store.flush()
    assert len(l2.held) == 9


async def test_the_queue_is_bounded_in_records(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log(), l1_bytes=10**5)
    l2.open.clear()
    for number in range(MAX_WAITING_RECORDS + 500):
        store.delete(key(f"/{number}"))
    stats = store.stats()["l2"]
    assert isinstance(stats, dict)
    assert stats["waiting_writes"] <= MAX_WAITING_RECORDS
    l2.open.set()
    await store.flush()


async def test_putting_a_key_again_writes_the_newest_alone(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    for number in range(100):
        store.put(key(), entry(body=b"%d" % number))
    await store.flush()
    assert [len(batch) for batch in l2.batches] == [1]
    assert same(l2.held[key()], entry(body=b"99"))


async def test_expired_records_leave_l1_without_being_asked_for(made: Backends, clock: FakeClock) -> None:
    store = await made.tiered(None, await made.memory_log())
    store.put(key(), entry(discard_at=NOW + 1))
    clock.advance(2)
    await until(lambda: len(store.l1) == 0)


async def test_stats_and_health_tell_of_both_tiers(made: Backends, l2: ScriptedTier) -> None:
    store = await made.tiered(l2, await made.memory_log())
    store.put(key(), entry())
    store.get_local(key())
    await store.flush()
    stats = store.stats()
    assert isinstance(stats["l1"], dict)
    assert isinstance(stats["l2"], dict)
    assert stats["l1"]["hits"] == 1
    assert stats["l1"]["records"] == 1
    assert stats["l2"]["state"] == "up"
    assert stats["l2"]["waiting_writes"] == 0
    health = store.health()
    assert health is not None
    assert health.last_error is None
