"""What a conformance test says of itself: its group, its clause, and the behaviour in one sentence."""

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
from _pytest.mark import ParameterSet

MARK: Final = "behaviour"
PARAMETRIZE: Final = "parametrize"


class Group(Enum):
    """The groups, in the order of docs/conformance.md."""

    STORING = "Storing"
    FRESHNESS = "Freshness"
    VALIDATION = "Validation"
    VARY = "Vary"
    RANGES = "Ranges"
    INVALIDATION = "Invalidation"
    STALE = "Stale responses"
    COLLAPSING = "Collapsing"
    KEY_SAFETY = "Key safety"
    BODY_METHODS = "POST and QUERY"
    CACHE_STATUS = "Cache-Status"
    EXPLAIN = "Explain"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One behaviour, which one or more tests show.

    Attributes:
        clause: where it stands: "RFC 9111 §3.5", or the setting that asks for it.
        statement: a sentence without its full stop.
        optional: the specification leaves it open (MAY): what is shown is what this cache chose.
        not_done: why it is not done; its tests are expected to fail.
    """

    group: Group
    clause: str
    statement: str
    optional: bool = False
    not_done: str = ""


@dataclass(frozen=True, slots=True)
class Describe:
    """Describes the behaviours of one group."""

    group: Group

    def __call__(
        self, clause: str, statement: str, *, optional: bool = False, not_done: str = ""
    ) -> pytest.MarkDecorator:
        """A mark: a decorator for the test that shows the behaviour."""
        assert not statement.endswith("."), statement
        return pytest.mark.behaviour(Behaviour(self.group, clause, statement, optional, not_done))

    def row(
        self, clause: str, statement: str, *values: object, optional: bool = False, not_done: str = ""
    ) -> ParameterSet:
        """A row of a `parametrize` table, with the behaviour that it shows."""
        return pytest.param(*values, marks=self(clause, statement, optional=optional, not_done=not_done))


def behaviours_of(group: Group) -> Describe:
    """`Describe` for the behaviours of one group."""
    return Describe(group)


def behaviour_in(marks: Iterable[pytest.Mark]) -> Behaviour | None:
    """The behaviour that `marks` tell of, if they tell of one."""
    return next((mark.args[0] for mark in marks if mark.name == MARK), None)


def declared() -> list[Behaviour]:
    """All behaviours of the suite, by group, in the order in which they stand in their files.

    Raises:
        ValueError: a test describes no behaviour.
    """
    found: dict[Behaviour, None] = {}  # several tests may show one
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"{__package__}.{path.stem}")
        if getattr(module, "pytestmark", None) == pytest.mark.about_the_suite:
            continue
        for test in _tests(module):
            for behaviour in _described(test):
                found[behaviour] = None
    order = list(Group)
    return sorted(found, key=lambda one: order.index(one.group))


def _tests(module: ModuleType) -> list[Callable[..., Any]]:
    tests = [
        test
        for name, test in vars(module).items()
        if name.startswith("test_") and inspect.isfunction(test) and test.__module__ == module.__name__
    ]
    return sorted(tests, key=lambda test: test.__code__.co_firstlineno)


def _described(test: Callable[..., Any]) -> list[Behaviour]:
    marks: list[pytest.Mark] = getattr(test, "pytestmark", [])
    own = behaviour_in(marks)
    if own is not None:
        return [own]
    for mark in marks:
        rows = [row.marks for row in mark.args[1] if isinstance(row, ParameterSet)] if mark.name == PARAMETRIZE else []
        found = [
            behaviour_in(one.mark if isinstance(one, pytest.MarkDecorator) else one for one in row) for row in rows
        ]
        described = [behaviour for behaviour in found if behaviour is not None]
        if described and len(described) == len(mark.args[1]):
            return described
    raise ValueError(f"{test.__module__}.{test.__name__}, or a row of its table, describes no behaviour")
