"""What was invalidated comes back from no tier, whenever its fetch began, and wherever it was when it happened."""

import asyncio
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.metrics.registry import Registry
from proxy.storage.base import Entry
from proxy.storage.invalidation_log import PurgeScope
from proxy.storage.memory import MemoryStore
from proxy.storage.memory_log import MemoryLog
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from tests.model.sidecars import DictTier
from tests.support.clock import FakeClock
from tests.support.records import entry, key

NAMES = ("/a", "/ab")
MATCHES = {  # by scope: what to name, and which resources it voids
    PurgeScope.KEY: ("GET http://example.test/a", {"/a"}),
    PurgeScope.URL: ("http://example.test/ab", {"/ab"}),
    PurgeScope.PREFIX: ("http://example.test/a", {"/a", "/ab"}),
    PurgeScope.TAG: ("/a", {"/a"}),
    PurgeScope.ALL: ("", {"/a", "/ab"}),
}
steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(NAMES)),
        st.tuples(st.just("put"), st.sampled_from(NAMES)),
        st.tuples(st.just("get"), st.sampled_from(NAMES)),
        st.tuples(st.just("hard"), st.sampled_from(list(MATCHES))),
        st.tuples(st.just("soft"), st.sampled_from(list(MATCHES))),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("drop"), st.none()),
    ),
    max_size=20,
)


@given(steps)
@settings(deadline=None, max_examples=200)
def test_an_invalidated_entry_is_served_by_no_tier(taken: list[tuple[str, object]]) -> None:
    asyncio.run(_take(taken))


async def _take(taken: list[tuple[str, object]]) -> None:
    clock, tasks = FakeClock(), Tasks()
    log = MemoryLog(clock)
    l1 = MemoryStore(10**6, clock)
    store = TieredStore(l1, DictTier({}, clock, tasks), log, clock, tasks, Registry())
    await store.start()
    began: dict[str, int] = {}
    purged: list[tuple[int, bool, set[str]]] = []
    for what, on in taken:
        clock.advance(1)
        if isinstance(on, PurgeScope):
            names, voided = MATCHES[on]
            done = await log.append(on, names, soft=what == "soft")
            purged.append((done.purge.id, what == "soft", voided))
        elif isinstance(on, str):
            name = on
            if what == "begin":
                began[name] = log.last_seen
            elif what == "put" and name in began:
                store.put(key(name), replace(entry(name), purge_id=began[name], tags=(name,)))
            elif what == "get":
                found = await store.get(key(name))
                if found is not None:
                    assert isinstance(found.record, Entry)
                    since = [soft for at, soft, voided in purged if at > found.record.purge_id and name in voided]
                    assert all(since), "purged"
                    assert not since or found.record.stored.fresh_until <= clock.wall(), "purged softly, and fresh"
        elif what == "flush":
            await store.flush()
        else:
            l1.clear()
    await store.close()
    await tasks.close()
