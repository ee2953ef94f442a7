import threading
from collections.abc import Iterable
from dataclasses import replace

import pytest

from proxy.http.dates import format_date
from proxy.http.etag import EntityTag
from proxy.http.message import make_headers
from proxy.storage import shapes
from proxy.storage.base import Entry
from proxy.storage.documents import UndecodableError
from proxy.storage.shapes import SHAPES_OF_A_FAMILY, Shapes
from tests.support.records import NOW, entry, same


def with_fields(*pairs: tuple[str, str], number: int = 0, **changes: object) -> Entry:
    """Entry `number`, with these header fields and changes of what is stored."""
    made = entry(f"/{number}")
    return replace(made, stored=replace(made.stored, headers=make_headers(pairs), **changes))  # type: ignore[arg-type]  # a test knows the types


def made_of(known: Shapes, entries: Iterable[Entry]) -> list[bytes]:
    """The shapes of `entries`, each of which comes out as it went in."""
    found = []
    for one in entries:
        shape, own = known.split(one)
        assert same(known.find(shape.data).fill(shape.read_own(own), one.url, one.body, one.forms), one)
        found.append(shape.data)
    return found


def test_alike_entries_have_one_shape() -> None:
    def alike(number: int) -> Entry:
        moment = NOW + 1000.25 * number
        made = with_fields(
            ("Date", format_date(moment)),
            ("ETag", f'W/"{number}"'),
            ("Last-Modified", format_date(moment - 5)),
            ("Content-Length", str(number)),
            ("Server", "x"),
            number=number,
            request_time=moment,
            response_time=moment + 0.1,
            initial_age=0.1,
            fresh_until=moment + 60,
            stale_while_revalidate_until=moment + 60 + 30,
            stale_if_error_until=moment + 60 + 0,
            etag=EntityTag(str(number), weak=True),
            last_modified=(moment - 5) // 1,
            date=moment // 1,
            body_length=number,
        )
        return replace(made, purge_id=number, discard_at=moment + 99.5)

    assert len({*made_of(Shapes(), map(alike, range(100)))}) == 1


def test_a_field_that_only_looks_like_another_is_kept_to_the_letter() -> None:
    known = Shapes()
    odd = [
        with_fields(("Date", format_date(NOW).lower()), date=NOW),
        with_fields(("Date", "today"), date=None),
        with_fields(("Date", format_date(NOW)), date=NOW + 0.5),
        with_fields(("Date", format_date(NOW)), date=NOW + 1),
        with_fields(("Date", format_date(NOW)), date=float("nan")),
        with_fields(("Date", format_date(NOW)), date=1e300),
        with_fields(("Date", format_date(NOW)), ("date", format_date(NOW)), date=NOW),
        with_fields(("Content-Length", "07"), body_length=7),
        with_fields(("ETag", 'W/"a"'), etag=EntityTag("a")),
        with_fields(("ETag", ' "a"'), etag=EntityTag("a")),
        with_fields(("ETag", '"a"'), etag=None),
    ]
    for one in odd:
        shape, own = known.split(one)
        back = shape.fill(shape.read_own(own), one.url, one.body, one.forms)
        assert repr(back.stored) == repr(one.stored)  # `nan` equals nothing


def test_a_field_that_differs_becomes_each_entrys_own() -> None:
    found = made_of(Shapes(), (with_fields(("X-Request-ID", f"{n}"), ("Server", "x")) for n in range(100)))
    assert len({*found}) <= SHAPES_OF_A_FAMILY + 1
    assert len({*found[SHAPES_OF_A_FAMILY + 1 :]}) == 1
    assert b'"x"' in found[-1]


def test_of_several_fields_all_that_differ_become_each_entrys_own() -> None:
    def of(number: int) -> Entry:
        return with_fields(*((f"X-{place}", f"{number // (place + 1)}") for place in range(5)), ("Server", "x"))

    found = made_of(Shapes(), map(of, range(1000)))
    assert len({*found[-300:]}) == 1
    assert b'"x"' in found[-1]


def test_a_field_that_is_there_several_times_may_be_each_entrys_own() -> None:
    def of(number: int) -> Entry:
        return with_fields(("Link", f"<{number}>"), ("Server", "x"), ("link", "<b>"), ("LINK", f"<{-number}>"))

    assert len({*made_of(Shapes(), map(of, range(100)))[-30:]}) == 1


def test_times_that_differ_in_their_distance_make_no_end_of_shapes() -> None:
    entries = (with_fields(("Server", "x"), stale_if_error_until=NOW + 60 + n) for n in range(100))
    assert len({*made_of(Shapes(), entries)[-50:]}) == 1


def test_what_has_few_values_stays_in_the_shape() -> None:
    """Many shapes of one family that differ in what is no header field, over and over."""
    known = Shapes()
    entries = [with_fields(("Server", "x"), status=200 + n) for n in range(100)]
    found = made_of(known, entries * 3)
    assert len({*found[-100:]}) == 100
    before = {id(known.split(one)[0]) for one in entries}
    assert before == {id(known.split(one)[0]) for one in entries}


def test_shapes_and_families_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "MAX_SHAPES", 10)
    known = Shapes()
    entries = [with_fields((f"X-{n}", "x")) for n in range(35)]
    made_of(known, entries * 2)
    assert max(len(known._by_data), len(known._by_key), len(known._families)) <= 10


def test_a_long_shape_is_not_remembered() -> None:
    known = Shapes()
    long = with_fields(("Content-Security-Policy", "x" * shapes.MAX_SHAPE_BYTES))
    made_of(known, [long] * 3)
    assert not known._by_data
    assert not known._by_key
    assert not known._families
    assert known.split(long)[0].uses == 1


def test_a_known_shape_is_found_again() -> None:
    known, others = Shapes(), Shapes()
    shape, _ = others.split(entry())
    assert known.find(shape.data) is known.find(bytes(bytearray(shape.data)))
    assert known.split(entry())[0] is known.find(shape.data)
    assert known.find(shape.data).uses == 1


def test_what_is_no_shape_is_not_remembered() -> None:
    known = Shapes()
    for _ in range(2):
        with pytest.raises(UndecodableError):
            known.find(b"{}")
    assert not known._by_data


def test_several_threads_may_split_at_once() -> None:
    known = Shapes()
    failures: list[Exception] = []

    def work(first: int) -> None:
        try:
            for round_number in range(40):
                made_of(known, (with_fields(("X", f"{first * n}"), ("Y", f"{n % 7}")) for n in range(round_number)))
        except Exception as error:  # noqa: BLE001  # told by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
