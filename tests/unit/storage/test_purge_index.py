from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.storage.base import Entry
from proxy.storage.invalidation_log import Purge, PurgeScope, dump_purge, load_purge
from proxy.storage.purge_index import PurgeIndex
from tests.support.records import entry, key, texts

PATHS = st.sampled_from(["/", "/a", "/a/b", "/ab"])
VALUES = {
    PurgeScope.KEY: PATHS.map(lambda path: key(path).primary),
    PurgeScope.URL: PATHS.map(lambda path: f"http://example.test{path}"),
    PurgeScope.PREFIX: st.sampled_from(["", "http://example.test/", "http://example.test/a", "x"]),
    PurgeScope.TAG: st.sampled_from(["t", "u"]),
    PurgeScope.ALL: st.just(""),
}
names = st.sampled_from(PurgeScope).flatmap(lambda scope: st.tuples(st.just(scope), VALUES[scope], st.booleans()))


def matches(purge: Purge, path: str, record: Entry) -> bool:
    match purge.scope:
        case PurgeScope.KEY:
            return purge.value == key(path).primary
        case PurgeScope.URL:
            return purge.value == record.url
        case PurgeScope.PREFIX:
            return record.url.startswith(purge.value)
        case PurgeScope.TAG:
            return purge.value in record.tags
        case PurgeScope.ALL:
            return True


@given(st.lists(names, max_size=25), PATHS, st.sampled_from([(), ("t",), ("t", "u")]), st.integers(0, 25))
@settings(deadline=None)
def test_the_index_answers_as_a_walk_through_the_whole_log_would(
    purged: list[tuple[PurgeScope, str, bool]], path: str, tags: tuple[str, ...], since: int
) -> None:
    index = PurgeIndex()
    log = [Purge(number, scope, value, soft, 0.0) for number, (scope, value, soft) in enumerate(purged, 1)]
    for purge in log:
        index.apply(purge)
    record = entry(path, tags=tags, purge_id=since)
    newer = [purge for purge in log if purge.id > since and matches(purge, path, record)]
    hard = [purge for purge in newer if not purge.soft]
    expected = hard or newer
    assert index.newest_match(key(path).primary, record) == (expected[-1] if expected else None)


@given(st.lists(names, max_size=25), PATHS, st.integers(0, 25), st.integers(1, 5))
@settings(deadline=None)
def test_a_small_index_never_lets_a_purged_record_live(
    purged: list[tuple[PurgeScope, str, bool]], path: str, since: int, room: int
) -> None:
    small, large = PurgeIndex(room), PurgeIndex()
    for number, (scope, value, soft) in enumerate(purged, 1):
        for index in (small, large):
            index.apply(Purge(number, scope, value, soft, 0.0))
    assert len(small) <= room
    record = entry(path, tags=("t",), purge_id=min(since, len(purged)))
    if large.newest_match(key(path).primary, record) is not None:
        assert small.newest_match(key(path).primary, record) is not None
    fresh = entry(path, tags=("t",), purge_id=small.last_seen)
    assert small.newest_match(key(path).primary, fresh) is None


def test_a_purge_that_comes_late_is_applied_all_the_same() -> None:
    index = PurgeIndex()
    heard: list[Purge | None] = []
    index.subscribe(heard.append)
    later = Purge(5, PurgeScope.TAG, "t", soft=False, at=0.0)
    earlier = Purge(4, PurgeScope.TAG, "u", soft=False, at=0.0)
    for purge in (later, earlier, later, earlier):
        index.apply(purge)
    assert heard == [later, earlier]
    assert index.last_seen == 5
    assert index.newest_match("", entry(tags=("u",), purge_id=3)) == earlier
    assert index.newest_match("", entry(tags=("u",), purge_id=5)) is None


def test_losing_purges_voids_what_is_older_and_says_so() -> None:
    index = PurgeIndex()
    heard: list[Purge | None] = []
    index.subscribe(heard.append)
    index.lose(10)
    assert heard == [None]
    assert index.newest_match("", entry(purge_id=9)) is not None
    assert index.newest_match("", entry(purge_id=10)) is None
    assert index.stats()["lost"] == 1


@given(st.sampled_from(PurgeScope), texts, st.booleans(), st.floats(allow_nan=False))
@settings(deadline=None)
def test_a_purge_survives_being_written(scope: PurgeScope, value: str, soft: bool, at: float) -> None:
    purge = Purge(7, scope, value, soft, at)
    assert load_purge(7, dump_purge(purge)) == purge


@given(st.binary(max_size=30) | st.sampled_from([b"null", b"[1]", b'["all",1,false,0]', b'["all","",0,0]', b"{}"]))
@settings(deadline=None)
def test_what_is_no_purge_is_refused(dumped: bytes) -> None:
    try:
        load_purge(1, dumped)
    except ValueError:
        return
    raise AssertionError(dumped)
