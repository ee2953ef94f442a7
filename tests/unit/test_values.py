"""`value`: what a frozen dataclass promises and this keeps; `value_by_identity`."""

from dataclasses import field, replace

import pytest

from proxy.values import value, value_by_identity


@value
class Point:
    """For the tests."""

    x: int
    y: int = field(default=0, repr=False)


def test_equal_fields_make_equal_values_with_equal_hashes() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert hash(Point(1, 2)) == hash(Point(1, 2))
    assert Point(1, 2) != Point(1, 3)


def test_value_takes_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        Point(1).z = 1  # type: ignore[attr-defined]  # that is what is tested


def test_replace_leaves_the_original_alone() -> None:
    first = Point(1, 2)
    assert replace(first, y=3) == Point(1, 3)
    assert first == Point(1, 2)


def test_fields_are_dataclass_fields() -> None:
    assert repr(Point(1)).endswith("Point(x=1)")


def test_a_value_by_identity_equals_itself_alone_whatever_is_in_it() -> None:
    @value_by_identity
    class Box:
        content: list[int]

    one, other = Box([]), Box([])
    assert one == one  # noqa: PLR0124  # that is what is tested
    assert one != other
    assert len({one, other}) == 2
    assert replace(one, content=[1]).content == [1]
