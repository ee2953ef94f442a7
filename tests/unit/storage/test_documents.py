from dataclasses import dataclass

import pytest

from proxy.storage.documents import Document, UndecodableError, defaults_of, dump, hints_of, load_object, reader


@dataclass(frozen=True, slots=True)
class Parcel:
    name: str
    weight: float | None = None
    tags: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)
    heavy: bool = False


DOCUMENT = Document(hints_of(Parcel), defaults_of(Parcel))


def test_fields_at_their_defaults_are_not_written() -> None:
    assert DOCUMENT.write(("a", None, (), (0, 0), False)) == {"name": "a"}
    assert DOCUMENT.read({"name": "a"}) == {"name": "a", "weight": None, "tags": (), "size": (0, 0), "heavy": False}


def test_what_was_written_is_read() -> None:
    values = {"name": "\udcff", "weight": float("inf"), "tags": ("x",), "size": (1, 2**70), "heavy": True}
    assert DOCUMENT.read(load_object(dump(DOCUMENT.write(values.values())))) == values


@pytest.mark.parametrize(
    "written",
    [
        [],
        {},
        {"name": 1},
        {"name": "a", "colour": "red"},
        {"name": "a", "weight": "1"},
        {"name": "a", "weight": True},
        {"name": "a", "tags": "x"},
        {"name": "a", "tags": [1]},
        {"name": "a", "size": [1]},
        {"name": "a", "size": [1, 2.0]},
        {"name": "a", "heavy": 1},
    ],
)
def test_what_was_not_written_so_is_not_read(written: object) -> None:
    with pytest.raises(UndecodableError):
        DOCUMENT.read(written)


def test_an_integer_is_read_as_the_float_that_it_is() -> None:
    weight = DOCUMENT.read({"name": "a", "weight": 2})["weight"]
    assert isinstance(weight, float)


def test_json_that_is_no_object_is_no_document() -> None:
    with pytest.raises(UndecodableError):
        load_object(b"[]")


def test_a_type_that_cannot_be_stored_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="cannot be stored"):
        reader(complex)


def test_a_dataclass_that_does_more_than_keep_its_fields_is_refused_at_once() -> None:
    @dataclass(frozen=True, slots=True)
    class Counting:
        number: int

        def __post_init__(self) -> None:
            """Would be run a second time."""

    with pytest.raises(TypeError, match="after its __init__"):
        defaults_of(Counting)
