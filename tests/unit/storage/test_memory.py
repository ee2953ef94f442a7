from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.http.message import make_headers
from proxy.storage.base import CacheKey, Entry, Record
from proxy.storage.memory import MemoryStore
from proxy.storage.packed import PackedEntry, pack
from proxy.storage.weights import weigh
from tests.support.clock import FakeClock
from tests.support.records import NOW, entry, key, marker, same

BIG = 10**6


def make(max_bytes: int = BIG, *, max_object_bytes: int | None = None, clock: FakeClock | None = None) -> MemoryStore:
    return MemoryStore(max_bytes, clock or FakeClock(), max_object_bytes=max_object_bytes)


def weight(body: bytes = b"body") -> int:
    return weigh(key("/0"), entry("/0", body))


def fill(store: MemoryStore, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        store.put(key(f"/{number}"), entry(f"/{number}"))


def kept(store: MemoryStore, count: int = 10) -> list[int]:
    return [number for number in range(count) if store.peek(key(f"/{number}")) is not None]


def test_records_that_nobody_asked_for_go_first() -> None:
    store = make(3 * weight())
    fill(store, 3)
    store.get(key("/0"))
    store.put(key("/3"), entry("/3"))
    assert kept(store) == [0, 2, 3]
    assert store.evictions == 1


def test_the_hand_goes_on_where_it_stopped() -> None:
    store = make(4 * weight())
    fill(store, 4)
    store.get(key("/0"))
    store.get(key("/1"))
    store.put(key("/4"), entry("/4"))  # the hand clears 0 and 1, takes 2, and stands before 3
    assert kept(store) == [0, 1, 3, 4]
    store.put(key("/5"), entry("/5"))
    assert kept(store) == [0, 1, 4, 5]


def test_the_hand_begins_again_at_the_oldest() -> None:
    store = make(2 * weight())
    fill(store, 2)
    store.get(key("/0"))
    store.get(key("/1"))
    store.put(key("/2"), entry("/2"))
    assert kept(store) == [1, 2]


def test_what_was_just_put_is_not_what_makes_room() -> None:
    store = make(2 * weight())
    fill(store, 2)
    store.get(key("/0"))
    store.get(key("/1"))
    store.put(key("/0"), entry("/0", b"body" + b"x" * 10))
    assert kept(store) == [0]


def test_what_is_put_packed_weighs_what_it_weighs_once_it_is_packed() -> None:
    first, other = make(), make()
    assert first.put(key(), entry(tags=("t",)))
    first.next_turn()
    assert first.settle(1) == 1
    assert other.put_packed(key(), pack(entry(tags=("t",)), key().primary))
    assert other.bytes == first.bytes < weigh(key(), entry(tags=("t",)))
    assert same(other.get(key()), entry(tags=("t",)))
    assert other.keys_of_tag("t") == other.keys_of_url("http://example.test/a") == [key()]


def test_what_outgrows_the_whole_store_when_it_is_unpacked_is_given_once_and_kept_no_longer() -> None:
    made = entry()
    made = replace(made, stored=replace(made.stored, headers=make_headers([("X-Long", "x" * 3000)])))
    store = make(2500)
    assert store.put_packed(key(), pack_alike(made))
    assert same(store.get(key()), made)
    assert store.bytes == len(store) == 0


def pack_alike(made: Entry) -> PackedEntry:
    """`made`, packed as one of many that have its shape."""
    return [pack(made, key().primary) for _ in range(10)][-1]


def test_what_is_put_packed_is_no_work_for_settling() -> None:
    store = make()
    store.put_packed(key("/0"), pack(entry("/0"), key("/0").primary))
    fill(store, 2, first=1)
    store.put_packed(key("/3"), pack(entry("/3"), key("/3").primary))
    fill(store, 1, first=4)
    store.next_turn()
    assert store.settle(9) == 3
    assert store.settle(9) == 0


def test_a_record_above_its_share_is_refused_and_takes_its_older_self_along() -> None:
    store = make(10 * weight(), max_object_bytes=weight() + 100)
    assert store.put(key(), entry())
    assert not store.put(key(), entry(body=b"x" * 200))
    assert store.get(key()) is None
    assert store.refusals == 1
    assert store.bytes == 0


def test_a_refusal_without_an_older_self_changes_nothing() -> None:
    store = make(weight() - 1)
    assert not store.put(key("/0"), entry("/0"))
    assert len(store) == 0


def test_bytes_are_those_of_what_is_kept() -> None:
    store = make()
    big = entry("/b", b"x" * 5000, tags=("t",), forms={"br": b"y" * 100})
    store.put(key(), entry())
    store.put(key("/b"), big)
    store.put(key("/m"), marker("/m"))
    assert store.bytes == weigh(key(), entry()) + weigh(key("/b"), big) + weigh(key("/m"), marker("/m"))
    store.put(key("/b"), entry("/b"))
    assert store.bytes == weigh(key(), entry()) + weigh(key("/b"), entry("/b")) + weigh(key("/m"), marker("/m"))
    store.close()
    assert store.bytes == 0
    assert len(store) == 0


def test_an_expired_record_is_no_hit_and_leaves() -> None:
    clock = FakeClock()
    store = make(clock=clock)
    store.put(key(), entry(discard_at=NOW + 1))
    assert store.get(key()) is not None
    clock.advance(1)
    assert store.get(key()) is None
    assert (store.hits, store.misses, store.expirations, len(store), store.bytes) == (1, 1, 1, 0, 0)


def test_sweeping_drops_expired_records_a_part_at_a_time() -> None:
    clock = FakeClock()
    store = make(clock=clock)
    for number in range(10):
        store.put(key(f"/{number}"), entry(f"/{number}", discard_at=NOW + (1 if number % 2 else 100)))
    clock.advance(2)
    assert [store.sweep(4), store.sweep(4), store.sweep(4)] == [2, 2, 1]
    assert kept(store) == [0, 2, 4, 6, 8]
    assert store.sweep(1000) == 0
    store.clear()
    assert store.sweep(10) == 0


def test_a_form_is_attached_to_the_entry_it_was_made_of() -> None:
    store = make()
    old = entry()
    store.put(key(), old)
    grown = store.attach_form(key(), old, "br", b"b" * 50)
    assert grown is not None
    assert grown.forms == {"br": b"b" * 50}
    assert store.get(key()) is grown
    assert store.bytes == weigh(key(), grown)
    assert old.forms == {}


def test_forms_made_side_by_side_are_both_kept() -> None:
    store = make()
    old = entry()
    store.put(key(), old)
    store.attach_form(key(), old, "br", b"b")
    grown = store.attach_form(key(), old, "gzip", b"g")
    assert grown is not None
    assert grown.forms == {"br": b"b", "gzip": b"g"}


def test_a_form_of_an_entry_that_was_replaced_is_not_attached() -> None:
    store = make()
    old = entry(body=b"old body")
    store.put(key(), old)
    store.put(key(), entry(body=b"new body"))
    assert store.attach_form(key(), old, "br", b"b") is None
    store.delete(key())
    assert store.attach_form(key(), old, "br", b"b") is None
    store.put(key(), marker())
    assert store.attach_form(key(), old, "br", b"b") is None


def test_a_form_that_makes_its_entry_too_large_is_not_attached() -> None:
    store = make(max_object_bytes=weight() + 300)
    old = entry()
    store.put(key(), old)
    assert store.attach_form(key(), old, "br", b"b" * 400) is None
    assert store.get(key()) is old


def test_attaching_a_form_makes_room_for_it() -> None:
    store = make(3 * weight())
    fill(store, 3)
    newest = store.peek(key("/2"))
    assert isinstance(newest, Entry)
    assert store.attach_form(key("/2"), newest, "br", b"b" * 100) is not None
    assert kept(store) == [1, 2]
    assert store.bytes <= store.max_bytes


def test_keys_are_found_by_all_that_a_purge_can_name() -> None:
    store = make()
    resource, one, two = key(), key(variant="1"), key(variant="2")
    store.put(resource, marker())
    store.put(one, entry(tags=("t",)))
    store.put(two, entry(tags=("t", "u")))
    store.put(key("/b/c"), entry("/b/c", tags=("u",)))
    assert set(store.keys_of_primary(resource.primary)) == {resource, one, two}
    assert set(store.keys_of_url("http://example.test/a")) == {resource, one, two}
    assert store.keys_of_prefix("http://example.test/b") == [key("/b/c")]
    assert set(store.keys_of_tag("t")) == {one, two}
    assert set(store.keys_of_tag("u")) == {two, key("/b/c")}
    assert set(store.all_keys()) == {resource, one, two, key("/b/c")}
    store.put(two, entry(tags=("v",)))
    assert store.keys_of_tag("u") == [key("/b/c")]
    assert store.keys_of_tag("v") == [two]
    store.put(two, entry("/elsewhere", tags=("v",)))
    assert store.keys_of_url("http://example.test/elsewhere") == [two]
    for found in store.all_keys():
        store.delete(found)
    assert store.keys_of_primary(resource.primary) == []
    assert store.keys_of_prefix("") == []
    assert store.keys_of_tag("t") == []


def test_updating_changes_entries_alone() -> None:
    store = make()
    store.put(key(), entry())
    store.put(key("/m"), marker("/m"))
    for name in ("/a", "/m", "/none"):
        store.update(key(name), lambda old: replace(old, stored=replace(old.stored, must_validate=True)))
    changed = store.get(key())
    assert isinstance(changed, Entry)
    assert changed.stored.must_validate
    assert store.get(key("/m")) == marker("/m")
    assert store.get(key("/none")) is None


def test_a_primary_key_that_looks_like_a_variant_is_another_key() -> None:
    store = make()
    store.put(CacheKey("a\0b"), entry("/1"))
    assert store.get(CacheKey("a", "b")) is None


NAMES = st.sampled_from([f"/{part}" for part in ("a", "b", "a/x", "a/y", "a/x/z")])
VARIANTS = st.sampled_from(["", "1", "2"])
TAGS = st.lists(st.sampled_from(["t", "u"]), unique=True, max_size=2).map(tuple)


class MemoryMachine(RuleBasedStateMachine):
    """A small store against a dict that forgets nothing: what the store has, the dict has, and purges are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store = MemoryStore(12_000, self.clock, max_object_bytes=6_000)
        self.model: dict[CacheKey, Record] = {}

    def purge(self, found: list[CacheKey], gone: list[CacheKey]) -> None:
        assert set(found) == {name for name in gone if self.store.discard_at(name) is not None}
        for name in found:
            self.store.delete(name)
        for name in gone:
            del self.model[name]

    @rule(name=NAMES, variant=VARIANTS, size=st.integers(0, 7000), life=st.integers(-1, 20), tags=TAGS)
    def put_entry(self, name: str, variant: str, size: int, life: int, tags: tuple[str, ...]) -> None:
        record = entry(name, b"x" * size, discard_at=self.clock.wall() + life, tags=tags)
        admitted = self.store.put(key(name, variant), record)
        self.model[key(name, variant)] = record
        assert admitted == (life > 0 and weigh(key(name, variant), record) <= 6_000)
        assert (self.store.peek(key(name, variant)) is record) == admitted

    @rule(name=NAMES, variant=VARIANTS, size=st.integers(0, 7000), life=st.integers(-1, 20), tags=TAGS)
    def put_packed(self, name: str, variant: str, size: int, life: int, tags: tuple[str, ...]) -> None:
        record = entry(name, b"x" * size, discard_at=self.clock.wall() + life, tags=tags)
        admitted = self.store.put_packed(key(name, variant), pack(record, key(name).primary))
        self.model[key(name, variant)] = record
        assert admitted or life <= 0 or weigh(key(name, variant), record) > 6_000
        assert (self.store.discard_at(key(name, variant)) is not None) == admitted

    @rule(name=NAMES)
    def put_marker(self, name: str) -> None:
        self.store.put(key(name), marker(name))
        self.model[key(name)] = marker(name)

    @rule(name=NAMES, variant=VARIANTS)
    def get(self, name: str, variant: str) -> None:
        found = self.store.get(key(name, variant))
        if found is not None:
            assert same(found, self.model[key(name, variant)])
            assert found.discard_at > self.clock.wall()

    @rule(name=NAMES, variant=VARIANTS, size=st.integers(0, 7000), form=st.sampled_from(["br", "gzip"]))
    def attach(self, name: str, variant: str, size: int, form: str) -> None:
        old = self.store.peek(key(name, variant))
        if isinstance(old, Entry):
            grown = self.store.attach_form(key(name, variant), old, form, b"y" * size)
            if grown is not None:
                self.model[key(name, variant)] = grown

    @rule(name=NAMES, variant=VARIANTS)
    def delete(self, name: str, variant: str) -> None:
        self.store.delete(key(name, variant))
        self.model.pop(key(name, variant), None)

    @rule(name=NAMES)
    def purge_primary(self, name: str) -> None:
        primary = key(name).primary
        self.purge(self.store.keys_of_primary(primary), [name for name in self.model if name.primary == primary])

    @rule(name=NAMES)
    def purge_url(self, name: str) -> None:
        url = f"http://example.test{name}"
        self.purge(self.store.keys_of_url(url), [name for name, record in self.model.items() if record.url == url])

    @rule(prefix=st.sampled_from(["", "http://example.test/", "http://example.test/a", "http://example.test/a/", "x"]))
    def purge_prefix(self, prefix: str) -> None:
        gone = [name for name, record in self.model.items() if record.url.startswith(prefix)]
        self.purge(self.store.keys_of_prefix(prefix), gone)

    @rule(tag=st.sampled_from(["t", "u"]))
    def purge_tag(self, tag: str) -> None:
        gone = [name for name, record in self.model.items() if isinstance(record, Entry) and tag in record.tags]
        self.purge(self.store.keys_of_tag(tag), gone)

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model.clear()

    @rule(seconds=st.integers(0, 10), records=st.integers(0, 20))
    def pass_time(self, seconds: int, records: int) -> None:
        self.clock.advance(seconds)
        self.store.sweep(records)

    @rule(records=st.integers(0, 20))
    def settle(self, records: int) -> None:
        self.store.next_turn()
        self.store.settle(records)

    @rule(name=NAMES, variant=VARIANTS, route=st.sampled_from(["", "other"]))
    def change(self, name: str, variant: str, route: str) -> None:
        known = self.model.get(key(name, variant))
        if isinstance(known, Entry) and self.store.discard_at(key(name, variant)) is not None:
            self.store.update(key(name, variant), lambda old: replace(old, route=route + old.route))
            self.model[key(name, variant)] = replace(known, route=route + known.route)

    @rule()
    def look_at_all(self) -> None:
        for name in self.store.all_keys():
            known = self.store.peek(name)  # which may make room for it
            assert known is None or same(known, self.model[name])
        records = [(name, self.store.peek(name)) for name in self.store.all_keys()]
        assert self.store.bytes == sum(weigh(name, record) for name, record in records if record is not None)

    @invariant()
    def bytes_are_bounded(self) -> None:
        assert self.store.bytes <= self.store.max_bytes
        names = self.store.all_keys()
        assert len(names) == len(self.store) == len(set(names))
        for name in names:
            assert self.store.discard_at(name) == self.model[name].discard_at


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)
