"""What every `InvalidationLog` does: in memory, in LMDB, in a Redis stream."""

from dataclasses import dataclass

import pytest

from proxy.storage.codec import Look
from proxy.storage.invalidation_log import Appended, InvalidationLog, Purge, PurgeScope
from proxy.storage.lmdb import LmdbStore
from proxy.storage.lmdb_file import LmdbFile
from proxy.storage.lmdb_log import LmdbLog
from tests.support.records import entry, key, marker, until
from tests.support.stores import REDIS_KINDS, Backends

SHARED = ("lmdb", *REDIS_KINDS)


@dataclass
class Place:
    """Where logs of one kind meet: each call of `log` is another process' view of it."""

    kind: str
    made: Backends
    _store: LmdbStore | None = None

    async def log(self, *, max_purges: int = 100_000) -> InvalidationLog:
        if self.kind == "memory":
            return await self.made.memory_log(max_purges=max_purges)
        if self.kind == "lmdb":
            self._store = self._store or await self.made.lmdb()
            return await self.made.lmdb_log(self._store, max_purges=max_purges)
        return await self.made.redis_log(self.made.url(self.kind), max_purges=max_purges)


@pytest.fixture(params=["memory", *SHARED])
def place(request: pytest.FixtureRequest, made: Backends) -> Place:
    return Place(request.param, made)


@pytest.fixture(params=SHARED)
def shared(request: pytest.FixtureRequest, made: Backends) -> Place:
    return Place(request.param, made)


NAMED = [
    (PurgeScope.KEY, "GET http://example.test/a"),
    (PurgeScope.URL, "http://example.test/a"),
    (PurgeScope.PREFIX, "http://example.test/"),
    (PurgeScope.PREFIX, "http://example.test/a"),
    (PurgeScope.PREFIX, ""),
    (PurgeScope.TAG, "t"),
    (PurgeScope.ALL, ""),
]
OTHERS = [
    (PurgeScope.KEY, "HEAD http://example.test/a"),
    (PurgeScope.KEY, "http://example.test/a"),
    (PurgeScope.URL, "http://example.test/a/"),
    (PurgeScope.URL, "http://example.test/"),
    (PurgeScope.PREFIX, "http://example.test/b"),
    (PurgeScope.PREFIX, "http://example.test/a/"),
    (PurgeScope.TAG, "T"),
    (PurgeScope.TAG, "http://example.test/a"),
]
RECORD = entry(tags=("s", "t"))
PRIMARY = key().primary


async def test_an_empty_log_voids_nothing(place: Place) -> None:
    log = await place.log()
    assert log.ready
    assert log.last_seen == 0
    assert log.newest_match(PRIMARY, RECORD) is None


@pytest.mark.parametrize(("scope", "value"), NAMED)
async def test_a_purge_voids_what_it_names(place: Place, scope: PurgeScope, value: str) -> None:
    log = await place.log()
    appended = await log.append(scope, value)
    assert appended.shared
    assert log.newest_match(PRIMARY, RECORD) == appended.purge
    assert appended.purge == Purge(log.last_seen, scope, value, soft=False, at=place.made.clock.wall())


@pytest.mark.parametrize(("scope", "value"), OTHERS)
async def test_a_purge_leaves_what_it_does_not_name(place: Place, scope: PurgeScope, value: str) -> None:
    log = await place.log()
    await log.append(scope, value)
    assert log.newest_match(PRIMARY, RECORD) is None


async def test_a_purge_leaves_what_was_fetched_after_it(place: Place) -> None:
    log = await place.log()
    await log.append(PurgeScope.TAG, "t")
    assert log.newest_match(PRIMARY, entry(tags=("t",), purge_id=log.last_seen)) is None


async def test_a_purge_voids_what_began_before_it_and_ended_after_it(place: Place) -> None:
    log = await place.log()
    await log.append(PurgeScope.TAG, "other")
    began = log.last_seen
    await log.append(PurgeScope.URL, "http://example.test/a")
    assert log.newest_match(PRIMARY, entry(purge_id=began)) is not None


async def test_markers_are_voided_by_key_url_prefix_and_all_but_not_by_tags(place: Place) -> None:
    log = await place.log()
    await log.append(PurgeScope.TAG, "t")
    assert log.newest_match(PRIMARY, marker()) is None
    for scope, value in NAMED:
        if scope is not PurgeScope.TAG:
            since = log.last_seen
            await log.append(scope, value)
            assert log.newest_match(PRIMARY, marker(purge_id=since)) is not None


async def test_a_hard_purge_comes_before_a_newer_soft_one(place: Place) -> None:
    log = await place.log()
    soft = (await log.append(PurgeScope.URL, "http://example.test/a", soft=True)).purge
    assert log.newest_match(PRIMARY, RECORD) == soft
    hard = (await log.append(PurgeScope.TAG, "t")).purge
    newest = (await log.append(PurgeScope.TAG, "t", soft=True)).purge
    assert log.newest_match(PRIMARY, RECORD) == hard
    assert log.newest_match(PRIMARY, entry(tags=("t",), purge_id=hard.id)) == newest


async def test_ids_grow(place: Place) -> None:
    log = await place.log()
    ids = [(await log.append(PurgeScope.URL, str(number))).purge.id for number in range(20)]
    assert ids == sorted(set(ids))
    assert log.last_seen == ids[-1]


async def test_subscribers_hear_of_each_purge_once_and_before_append_returns(place: Place) -> None:
    log = await place.log()
    heard: list[Purge | None] = []
    log.subscribe(heard.append)
    first = (await log.append(PurgeScope.TAG, "t")).purge
    second = (await log.append(PurgeScope.ALL, "", soft=True)).purge
    third = (await log.append(PurgeScope.TAG, "t")).purge
    assert heard == [first, second, third]
    log.refresh()
    follower = await place.log()
    await follower.append(PurgeScope.TAG, "last")
    if place.kind != "memory":
        await until(lambda: len(heard) == 4)
    assert heard[:3] == [first, second, third]


async def test_odd_values_survive(place: Place) -> None:
    log = await place.log()
    await log.append(PurgeScope.TAG, 'a "quoted"\n\udcff\0 tag')
    assert log.newest_match(PRIMARY, entry(tags=('a "quoted"\n\udcff\0 tag',))) is not None


async def test_a_forgotten_purge_voids_everything_older(place: Place) -> None:
    log = await place.log(max_purges=3)
    old = entry("/old", tags=("old",))
    for number in range(5):
        await log.append(PurgeScope.URL, f"http://example.test/{number}")
    assert log.newest_match("GET http://example.test/old", old) is not None
    assert log.newest_match("GET http://example.test/old", entry("/old", purge_id=log.last_seen)) is None


async def test_a_purge_made_again_and_again_takes_one_place(place: Place) -> None:
    log = await place.log(max_purges=3)
    await log.append(PurgeScope.TAG, "once")
    since = log.last_seen
    for _ in range(10):
        await log.append(PurgeScope.URL, "http://example.test/a")
    assert log.newest_match("GET http://example.test/b", entry("/b", purge_id=since)) is None
    assert log.newest_match(PRIMARY, entry(purge_id=since)) is not None


async def test_closing_twice_is_safe(place: Place) -> None:
    log = await place.log()
    await log.close()
    await log.close()


async def test_stats_say_how_much_is_remembered(place: Place) -> None:
    log = await place.log()
    await log.append(PurgeScope.ALL, "")
    assert log.stats()["kind"] == place.kind.partition("-")[0]
    assert log.stats()["purges"] == 1
    assert log.stats()["last_seen"] == log.last_seen


# Logs that others append to.


@pytest.mark.parametrize(("scope", "value"), NAMED)
async def test_what_one_appends_the_others_apply(shared: Place, scope: PurgeScope, value: str) -> None:
    here, there = await shared.log(), await shared.log()
    purge = (await here.append(scope, value)).purge
    await until(lambda: there.last_seen == purge.id)
    assert there.newest_match(PRIMARY, RECORD) == purge


async def test_a_later_process_knows_what_was_purged_before_it_began(shared: Place) -> None:
    log = await shared.log()
    purge = (await log.append(PurgeScope.TAG, "t")).purge
    await log.close()
    later = await shared.log()
    assert later.ready
    assert later.last_seen == purge.id
    assert later.newest_match(PRIMARY, RECORD) == purge
    assert (await later.append(PurgeScope.ALL, "")).purge.id > purge.id


async def test_two_who_append_at_once_end_with_the_same_purges(shared: Place) -> None:
    here, there = await shared.log(), await shared.log()
    for number in range(30):
        await (here if number % 2 else there).append(PurgeScope.URL, f"http://example.test/{number}")
    await until(lambda: here.last_seen == there.last_seen)
    for number in range(30):
        record = entry(f"/{number}")
        assert here.newest_match(f"GET {record.url}", record) == there.newest_match(f"GET {record.url}", record)
        assert here.newest_match(f"GET {record.url}", record) is not None


@pytest.mark.parametrize("on_its_way", [False, True])
async def test_a_purge_of_another_process_holds_here_when_it_has_been_adopted(place: Place, on_its_way: bool) -> None:
    one, other = await place.log(), await place.log()
    told: list[Purge | None] = []
    other.subscribe(told.append)
    for _ in range(3):  # ids of one memory mean nothing to another
        await other.append(PurgeScope.TAG, "unrelated")
    record = entry(tags=("s", "t"), purge_id=other.last_seen)
    appended = await one.append(PurgeScope.TAG, "t")
    if on_its_way:
        appended = Appended(appended.purge, shared=False)
    adopted = await other.adopt(appended)
    found = other.newest_match(PRIMARY, record)
    assert found == adopted
    assert adopted in told
    assert other.newest_match(PRIMARY, entry(tags=("t",), purge_id=other.last_seen)) is None


async def test_an_adopted_purge_is_known_when_it_comes_from_the_shared_log(shared: Place) -> None:
    one, other = await shared.log(), await shared.log()
    told: list[Purge | None] = []
    other.subscribe(told.append)
    first = await one.append(PurgeScope.TAG, "t")
    assert await other.adopt(first) == first.purge
    last = await one.append(PurgeScope.TAG, "u")
    other.refresh()
    await until(lambda: other.last_seen == last.purge.id)
    assert told.count(first.purge) == 1


async def test_what_was_appended_before_l2_was_looked_at_is_applied_by_the_look(made: Backends) -> None:
    store = await made.lmdb()
    one, other = await made.lmdb_log(store, started=False), await made.lmdb_log(store, started=False)
    one.refresh()
    other.refresh()
    await store.put(key(), RECORD)
    assert isinstance(store.look(key()), Look)
    one.refresh_as_of_look()
    before = await other.append(PurgeScope.TAG, "t")
    assert isinstance(store.look(key()), Look)
    one.refresh_as_of_look()
    assert one.newest_match(PRIMARY, RECORD) == before.purge
    # Written and read on by others meanwhile: the look is the older one.
    after = await other.append(PurgeScope.TAG, "s")
    one.refresh()
    assert one.newest_match(PRIMARY, RECORD) == after.purge
    one.refresh_as_of_look()
    last = await other.append(PurgeScope.TAG, "s")
    assert isinstance(store.look(key()), Look)
    one.refresh_as_of_look()
    assert one.newest_match(PRIMARY, RECORD) == last.purge


async def test_without_a_look_at_l2_a_log_is_read_to_its_end(shared: Place) -> None:
    one, other = await shared.log(), await shared.log()
    appended = await one.append(PurgeScope.TAG, "t")
    other.refresh_as_of_look()
    await until(lambda: other.newest_match(PRIMARY, RECORD) == appended.purge)


async def test_a_log_begins_anew_in_another_file(made: Backends) -> None:
    store = await made.lmdb()
    files = [store.file]
    log = LmdbLog(lambda: files[-1], made.clock, made.tasks, timeout_seconds=5.0)
    log.refresh()
    assert log.ready
    path = made.directory / "other.mdb"
    second = LmdbFile(path, 2**20)
    writer = LmdbLog(lambda: second, made.clock, made.tasks, timeout_seconds=5.0)
    while _last_transaction(second) + 1 < _last_transaction(store.file):
        await second.write(second.release_pages)
    appended = await writer.append(PurgeScope.TAG, "t")
    files.append(second)
    log.refresh()
    assert log.newest_match(PRIMARY, RECORD) == appended.purge
    await second.close()


def _last_transaction(file: LmdbFile | None) -> int:
    assert file is not None
    with file.env.begin() as txn:
        return txn.id()
