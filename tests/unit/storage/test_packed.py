from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.message import make_headers
from proxy.storage.base import Entry
from proxy.storage.memory import MemoryStore
from proxy.storage.packed import PackedEntry, address, pack, unpack, url_of
from proxy.storage.shapes import Shapes
from proxy.storage.weights import weigh
from tests.support.clock import FakeClock
from tests.support.records import NOW, entries, entry, key, marker, same


def like_others(number: int) -> Entry:
    """One of many that an origin answers with the same fields, some values of which are its own."""
    made = entry(f"/items/{number}", bytes(1024))
    fields = {
        "Server": "origin/1.2",
        "Content-Type": "application/json",
        "Cache-Control": "public, max-age=3600",
        "ETag": f'"{number * 7919:016x}"',
        "X-Request-ID": f"{number * 104729:032x}",
    }
    return replace(made, stored=replace(made.stored, headers=make_headers(fields.items())))


def packed_and_back(made: Entry, primary: str = "GET http://example.test/") -> Entry:
    return unpack(pack(made, primary), primary)


@given(entries, st.sampled_from(["", "GET "]))
@settings(deadline=None)
def test_an_entry_comes_out_as_it_went_in_with_the_same_bodies(one: Entry, method: str) -> None:
    for primary in (method + one.url, "GET http://example.test/"):
        packed = pack(one, primary)
        unpacked = unpack(packed, primary)
        assert same(unpacked, one)
        assert unpacked.body is one.body
        assert unpacked.forms is one.forms
        assert packed.discard_at == one.discard_at
        where, tags = address(packed)
        assert (url_of(where, primary), tags) == (one.url, one.tags)


@pytest.mark.parametrize("length", [2**64, 2**64 + 1, 2**70])
def test_an_integer_that_json_readers_take_for_a_float_stays_what_it_is(length: int) -> None:
    made = entry()
    made = replace(made, stored=replace(made.stored, body_length=length))
    assert same(packed_and_back(made), made)


def pack_all(made: Iterable[Entry]) -> list[PackedEntry]:
    return [pack(one, f"GET {one.url}") for one in made]


def test_what_is_alike_takes_few_bytes() -> None:
    packed = pack_all(like_others(number) for number in range(200))
    assert max(one.extra_bytes for one in packed[100:]) < 160


def test_kinds_of_entries_that_come_by_turns_all_take_few_bytes() -> None:
    def of_kind(kind: int, number: int) -> Entry:
        made = like_others(number)
        fields = [(f"X-{kind}-{place}", f"{kind * 31 + place:x}" * 12) for place in range(12)]
        return replace(made, stored=replace(made.stored, headers=make_headers(fields)))

    packed = pack_all(of_kind(number % 3, number) for number in range(100))
    assert max(one.extra_bytes for one in packed[50:]) < 150
    assert all(
        same(unpack(one, f"GET http://example.test/items/{number}"), of_kind(number % 3, number))
        for number, one in enumerate(packed)
    )


def test_what_is_like_no_other_keeps_no_shape_but_its_bytes() -> None:
    def strange(number: int) -> Entry:
        made = like_others(number)
        return replace(made, stored=replace(made.stored, headers=make_headers([(f"X-{number}", "x")])))

    packed = pack_all(strange(number) for number in range(50))
    assert all(isinstance(one.shape, bytes) for one in packed)
    assert min(one.extra_bytes for one in packed) > len(Shapes().split(strange(0))[0].data)
    assert all(
        same(unpack(one, f"GET http://example.test/items/{number}"), strange(number))
        for number, one in enumerate(packed)
    )


def test_a_url_that_its_key_does_not_end_with_takes_bytes() -> None:
    made = entry("/a?utm_source=x")
    for _ in range(100):  # its shape is one that many share from here on
        pack(made, "")
    short, long = pack(made, f"GET {made.url}"), pack(made, "GET http://example.test/a")
    assert long.extra_bytes == short.extra_bytes + len(made.url)


def test_a_change_is_made_when_the_entry_is_unpacked() -> None:
    packed = pack(entry(), "")
    packed.change = lambda old: replace(old, route="changed")
    assert unpack(packed, "").route == "changed"


# In L1.


def filled(count: int = 4, *, max_bytes: int = 10**6) -> MemoryStore:
    store = MemoryStore(max_bytes, FakeClock())
    for number in range(count):
        store.put(key(f"/items/{number}"), like_others(number))
    return store


def packs(store: MemoryStore) -> int:
    """The bytes that a turn of the sweep saves."""
    before = store.bytes
    store.next_turn()
    store.settle(1000)
    store.sweep(len(store))
    return before - store.bytes


def test_a_new_entry_is_packed_in_the_turn_after_that_in_which_it_was_put() -> None:
    store = filled()
    before = store.bytes
    assert store.settle(10) == 0
    assert store.bytes == before
    store.next_turn()
    assert [store.settle(3), store.settle(3), store.settle(3)] == [3, 1, 0]
    assert store.bytes < before - 4 * 500


def test_new_entries_are_looked_at_once() -> None:
    store = filled()
    store.next_turn()
    store.settle(2)
    store.delete(key("/items/2"))
    assert store.settle(10) == 1
    store.put(key("/items/4"), like_others(4))
    store.next_turn()
    assert store.settle(10) == 1


def test_a_new_entry_that_was_asked_for_is_not_packed_before_a_look_that_finds_it_unused() -> None:
    store = filled(1)
    store.get(key("/items/0"))
    store.next_turn()
    before = store.bytes
    store.settle(10)
    assert store.bytes == before
    store.get(key("/items/0"))
    store.sweep(1)
    assert store.bytes == before
    store.sweep(1)
    assert store.bytes < before


def test_a_packed_entry_is_the_same_and_weighs_what_it_did_when_it_is_asked_for() -> None:
    store = filled()
    before = store.bytes
    packs(store)
    for number in range(4):
        assert same(store.get(key(f"/items/{number}")), like_others(number))
    assert store.bytes == before == sum(weigh(key(f"/items/{n}"), like_others(n)) for n in range(4))
    assert store.get(key("/items/0")) is store.get(key("/items/0"))


def test_hits_are_counted_through_packing() -> None:
    store = filled(1)
    store.get(key("/items/0"))
    packs(store)
    packs(store)
    store.get(key("/items/0"))
    assert store.uses(key("/items/0")) == 2


def test_an_entry_that_somebody_holds_is_not_packed() -> None:
    store = filled(1)
    held = store.peek(key("/items/0"))
    assert packs(store) == 0
    assert store.peek(key("/items/0")) is held
    del held
    assert packs(store) > 500


def test_an_entry_that_somebody_watches_is_not_packed() -> None:
    class Replica:
        def void(self) -> None:
            raise AssertionError

    store, replica = filled(1), Replica()
    store.watch(key("/items/0"), replica)
    assert packs(store) == 0
    del replica
    assert packs(store) > 500


def test_what_unpacking_takes_others_make_room_for() -> None:
    size = weigh(key("/items/10"), like_others(10))
    store = filled(30, max_bytes=30 * size)
    packs(store)
    store.put(key("/items/30"), like_others(30))
    assert len(store) == 31
    for number in range(31):
        store.get(key(f"/items/{number}"))
    assert store.evictions == 1
    assert store.bytes <= store.max_bytes


def test_a_form_is_attached_to_a_packed_entry_with_the_same_body() -> None:
    store = MemoryStore(10**6, FakeClock())
    old = like_others(0)
    store.put(key(), replace(old))  # other metadata, the same body
    packs(store)
    grown = store.attach_form(key(), old, "br", b"form")
    assert grown is not None
    assert same(grown, replace(old, forms={"br": b"form"}))
    assert store.bytes == weigh(key(), grown)
    del grown
    assert packs(store) > 500
    assert same(store.peek(key()), replace(old, forms={"br": b"form"}))


def test_a_form_of_another_body_is_not_attached_to_a_packed_entry() -> None:
    store = filled(1)
    packs(store)
    assert store.attach_form(key("/items/0"), entry(body=b"another"), "br", b"form") is None


def test_a_packed_entry_is_changed_as_often_as_any() -> None:
    store = filled(1)
    packs(store)
    for word in ("a", "b", "c"):
        store.update(key("/items/0"), lambda old, word=word: replace(old, route=old.route + word))  # type: ignore[misc]  # the default is a str
    found = store.get(key("/items/0"))
    assert isinstance(found, Entry)
    assert found.route == "abc"


def test_purges_find_packed_entries() -> None:
    store = MemoryStore(10**6, FakeClock())
    for number in range(4):
        store.put(key(f"/{number}", str(number)), entry(f"/{number}", tags=(f"t{number}",)))
    packs(store)
    assert store.keys_of_url("http://example.test/0") == [key("/0", "0")]
    assert store.keys_of_prefix("http://example.test/1") == [key("/1", "1")]
    assert store.keys_of_tag("t2") == [key("/2", "2")]
    assert store.keys_of_primary(key("/3").primary) == [key("/3", "3")]
    for found in store.all_keys():
        store.delete(found)
    assert (store.bytes, store.keys_of_prefix(""), store.keys_of_tag("t2")) == (0, [], [])


def test_a_packed_entry_expires() -> None:
    clock = FakeClock()
    store = MemoryStore(10**6, clock)
    for number in range(2):
        store.put(key(f"/{number}"), entry(f"/{number}", discard_at=NOW + 5))
    packs(store)
    assert store.discard_at(key("/0")) == NOW + 5
    clock.advance(5)
    assert store.get(key("/0")) is None
    assert store.sweep(10) == 1
    assert store.discard_at(key("/1")) is None
    assert store.bytes == 0


def test_another_entry_takes_the_place_of_a_packed_one() -> None:
    store = filled(1)
    packs(store)
    new = entry("/elsewhere", tags=("new",))
    store.put(key("/items/0"), new)
    assert store.peek(key("/items/0")) is new
    assert store.bytes == weigh(key("/items/0"), new)
    assert store.keys_of_prefix("http://example.test/items/") == []
    assert store.keys_of_tag("new") == [key("/items/0")]


def test_a_cleared_store_packs_what_comes_next() -> None:
    store = filled()
    packs(store)
    store.clear()
    assert packs(store) == 0
    store.put(key("/items/0"), like_others(0))
    assert packs(store) > 500
    assert same(store.get(key("/items/0")), like_others(0))


def test_a_marker_stays_as_it_is() -> None:
    store = MemoryStore(10**6, FakeClock())
    store.put(key(), marker())
    assert packs(store) == 0
    store.update(key(), lambda old: replace(old, route="never"))
    assert store.peek(key()) == marker()
