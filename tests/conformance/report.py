"""Runs the suite, and writes docs/conformance.md from what came out of it."""

import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.behaviours import Behaviour, Group, behaviour_in, declared

PAGE: Final = Path(__file__).parents[2] / "docs" / "conformance.md"
HEAD: Final = """\
# What the HTTP cache does, and its tests show

Each line is a behaviour of the cache, the clause that asks for it, and what came out when it was put to the test: a
sidecar process in front of an origin that answers as the case needs it, and a client that sends and reads bytes. That
an answer came from the store is shown by the requests that the origin got, not by what the cache says of itself alone.
The tests stand in `tests/conformance`, a file for each group. `make conformance` runs them and writes this page.

*Optional* marks what the specifications leave to the cache: the line says what this one chose.
"""


class Outcome(Enum):
    """What came of a behaviour's tests."""

    PASSES = "passes"
    OPTIONAL = "passes (optional)"
    NOT_DONE = "not done"
    FAILS = "**fails**"


def expected(behaviour: Behaviour) -> Outcome:
    """What comes of `behaviour` when all is well."""
    if behaviour.not_done:
        return Outcome.NOT_DONE
    return Outcome.OPTIONAL if behaviour.optional else Outcome.PASSES


def render(outcomes: Mapping[Behaviour, Outcome]) -> str:
    """The page."""
    groups = [group for group in Group if any(behaviour.group is group for behaviour in outcomes)]
    by_group = {group: [one for one in outcomes if one.group is group] for group in groups}
    parts = [HEAD, _summary({group: [outcomes[one] for one in by_group[group]] for group in groups})]
    for group in groups:
        rows = [(one.statement, one.clause, _cell(one, outcomes[one])) for one in by_group[group]]
        parts.append(f"## {group.value}\n" + _table(("behaviour", "clause", "outcome"), rows))
    return "\n".join(parts)


def _summary(outcomes: Mapping[Group, Sequence[Outcome]]) -> str:
    shown = [one for one in Outcome if one is not Outcome.FAILS or any(one in found for found in outcomes.values())]
    rows = [
        (_link(group), *(str(found.count(one)) for one in shown), str(len(found))) for group, found in outcomes.items()
    ]
    every = [one for found in outcomes.values() for one in found]
    rows.append(("all", *(str(every.count(one)) for one in shown), str(len(every))))
    return _table(("group", *(one.value for one in shown), "behaviours"), rows)


def _link(group: Group) -> str:
    return f"[{group.value}](#{group.value.lower().replace(' ', '-')})"


def _cell(behaviour: Behaviour, outcome: Outcome) -> str:
    return f"{outcome.value}: {behaviour.not_done}" if outcome is Outcome.NOT_DONE else outcome.value


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


class Recorder:
    """A pytest plugin that notes what comes of each behaviour."""

    def __init__(self) -> None:
        self._behaviours: dict[str, Behaviour] = {}
        self._failed: set[Behaviour] = set()
        self._ran: set[Behaviour] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Learn which test shows what."""
        for item in session.items:
            behaviour = behaviour_in(item.iter_markers())
            if behaviour is not None:
                self._behaviours[item.nodeid] = behaviour

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test's outcome; one that was expected to fail, and did, has run as well."""
        behaviour = self._behaviours.get(report.nodeid)
        if behaviour is None:
            return
        if report.failed:
            self._failed.add(behaviour)
        elif report.when == "call":
            self._ran.add(behaviour)

    def outcomes(self) -> dict[Behaviour, Outcome]:
        """What came of each behaviour; one that did not run fails."""
        return {
            one: expected(one) if one in self._ran and one not in self._failed else Outcome.FAILS for one in declared()
        }


def main() -> int:
    """Run, write, and end with pytest's exit code."""
    recorder = Recorder()
    deselected = ["-m", "not about_the_suite"]  # they compare the page that is written here
    code = pytest.main([str(Path(__file__).parent), "-q", *deselected, *sys.argv[1:]], [recorder])
    PAGE.write_text(render(recorder.outcomes()))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
