"""What plugins give to be called past the pipeline, made safe."""

from collections.abc import Sequence
from typing import cast

import pytest
from structlog.testing import capture_logs

from proxy.metrics.registry import Registry
from proxy.pipeline.failures import TELL_SECONDS, Failures
from proxy.pipeline.passage import PassagePart, Passed
from proxy.pipeline.replay import Arrival, Journal, Note, ReplayPart
from tests.support.clock import FakeClock

ARRIVAL = cast("Arrival", object())
PASSED = cast("Passed", object())
NOTE = ("of it", ARRIVAL, b"", 0.0, 0.0)


class Accounts:
    """Keeps some, and fails to when it is told so."""

    def __init__(self) -> None:
        self.fails = False
        self.kept: list[object] = []

    def _keep(self, what: object) -> None:
        if self.fails:
            raise LookupError("no")
        self.kept.append(what)

    def tally(self, durations: Sequence[float], bytes_sent: int) -> None:
        self._keep((list(durations), bytes_sent))

    def note(self, passed: Passed) -> None:
        self._keep(passed)

    def take(self, notes: Sequence[Note[str]]) -> None:
        self._keep(list(notes))

    def ask(self, arrival: Arrival) -> str | None:
        self._keep(arrival)
        return "5"

    def agree(self) -> bool:
        self._keep("asked")
        return True


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics() -> Registry:
    return Registry()


@pytest.fixture
def failures(clock: FakeClock, metrics: Registry) -> Failures:
    return Failures(clock, metrics)


def counted(metrics: Registry, hook: str) -> float:
    return metrics.counter("sidecache_plugin_failures", "", ("plugin", "hook")).labels("p", hook).value


def test_parts_that_work_are_what_they_were(failures: Failures) -> None:
    accounts, journal = Accounts(), Journal[str](lambda _: None)
    replay = failures.guard_replay("p", ReplayPart(accounts.ask, "X-Left", (journal, "of it"), accounts.tally))
    passage = failures.guard_passage("p", PassagePart(accounts.agree, accounts.tally, accounts.note, 1, 2, True))
    assert replay.check is not None and replay.tally is not None
    assert passage.check is not None and passage.tally is not None and passage.note is not None
    assert replay.check(ARRIVAL) == "5"
    assert passage.check() is True
    replay.tally([1.0], 2)
    passage.note(PASSED)
    assert accounts.kept == [ARRIVAL, "asked", ([1.0], 2), PASSED]
    assert (replay.field, replay.journal) == ("X-Left", (journal, "of it"))
    assert (passage.least_bytes, passage.most_bytes, passage.any_target) == (1, 2, True)


def test_what_a_plugin_did_not_give_is_not_there(failures: Failures) -> None:
    assert failures.guard_replay("p", ReplayPart()) == ReplayPart()
    assert failures.guard_passage("p", PassagePart()) == PassagePart()


def test_a_check_that_raises_says_no_and_an_account_that_raises_is_given(failures: Failures, metrics: Registry) -> None:
    accounts = Accounts()
    accounts.fails = True
    journal = Journal[str](accounts.take)
    replay = failures.guard_replay("p", ReplayPart(accounts.ask, "", (journal, "of it"), accounts.tally))
    passage = failures.guard_passage("p", PassagePart(accounts.agree, accounts.tally, accounts.note))
    assert replay.check is not None and replay.tally is not None
    assert passage.check is not None and passage.tally is not None and passage.note is not None
    assert replay.check(ARRIVAL) is None
    replay.tally([1.0], 2)
    journal.notes.append(NOTE)
    journal.settle()
    assert journal.notes == []
    assert counted(metrics, "on_replay") == 3
    assert passage.check() is False
    passage.tally([1.0], 2)
    passage.note(PASSED)
    assert counted(metrics, "on_passage") == 3


def test_a_journal_that_no_pipeline_knows_raises() -> None:
    accounts = Accounts()
    accounts.fails = True
    journal = Journal[str](accounts.take)
    journal.notes.append(NOTE)
    with pytest.raises(LookupError):
        journal.settle()


def test_tallies_are_equal_where_those_of_the_plugin_are(failures: Failures) -> None:
    one, other = Accounts(), Accounts()
    parts = [failures.guard_passage("p", PassagePart(tally=each)) for each in (one.tally, one.tally, other.tally)]
    assert parts[0].tally == parts[1].tally
    assert len({part.tally for part in parts}) == 2


def test_each_part_is_told_of_by_itself_and_not_too_often(failures: Failures, clock: FakeClock) -> None:
    with capture_logs() as lines:
        for seconds in (0.0, TELL_SECONDS - 0.1, 0.1):
            clock.advance(seconds)
            failures.of_part("p", "on_replay", "tally", ValueError())
            failures.of_part("p", "on_passage", "tally", ValueError())
        failures.of_part("q", "on_replay", "tally", ValueError())
    told = [(line["plugin"], line["hook"], line["part"], line["failures"]) for line in lines]
    assert told == [
        ("p", "on_replay", "tally", 1),
        ("p", "on_passage", "tally", 1),
        ("p", "on_replay", "tally", 2),
        ("p", "on_passage", "tally", 2),
        ("q", "on_replay", "tally", 1),
    ]
