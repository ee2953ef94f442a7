"""The circuit's state machine, under a clock moved by hand."""

import random
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.errors import CircuitOpenError
from proxy.upstream.circuit import Circuit, CircuitRules, CircuitState, Permit
from tests.support.clock import FakeClock

RULES = CircuitRules(
    consecutive_failures=3, minimum_calls=10, open_seconds=10, open_growth=2, max_open_seconds=60, jitter=0
)


class Bench:
    """A circuit and all that happened to it."""

    def __init__(self, rules: CircuitRules = RULES) -> None:
        self.clock = FakeClock()
        self.moves: list[tuple[CircuitState, CircuitState]] = []
        self.circuit = Circuit(
            "default",
            rules,
            self.clock,
            random.Random(7),
            lambda circuit, before: self.moves.append((before, circuit.state)),
        )

    def stands(self, state: CircuitState) -> bool:
        return self.circuit.state is state

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.circuit.fail(self.circuit.admit())

    def succeed(self, times: int = 1) -> None:
        for _ in range(times):
            self.circuit.succeed(self.circuit.admit())

    def open(self) -> None:
        self.fail(self.circuit.rules.consecutive_failures)
        assert self.stands(CircuitState.OPEN)

    def half_open(self) -> Permit:
        """Open, wait, and let one probe through."""
        self.open()
        self.clock.advance(self.circuit.rules.open_seconds)
        return self.circuit.admit()

    def refused(self) -> CircuitOpenError:
        with pytest.raises(CircuitOpenError) as refusal:
            self.circuit.admit()
        return refusal.value


def test_failures_in_a_row_open_it() -> None:
    bench = Bench()
    bench.fail(2)
    assert bench.stands(CircuitState.CLOSED)
    bench.fail()
    assert bench.stands(CircuitState.OPEN)
    assert bench.moves == [(CircuitState.CLOSED, CircuitState.OPEN)]


def test_success_ends_a_row_of_failures() -> None:
    bench = Bench(replace(RULES, minimum_calls=1000))
    for _ in range(4):
        bench.fail(2)
        bench.succeed()
    assert bench.stands(CircuitState.CLOSED)


def test_ratio_opens_it_from_the_minimum_volume_on() -> None:
    bench = Bench(replace(RULES, consecutive_failures=0, failure_ratio=0.5, minimum_calls=10))
    for _ in range(4):
        bench.succeed()
        bench.fail()
    bench.fail()  # 5 of 9
    assert bench.stands(CircuitState.CLOSED)
    bench.fail()  # 6 of 10
    assert bench.stands(CircuitState.OPEN)


def test_ratio_forgets_what_lies_before_the_window() -> None:
    bench = Bench(replace(RULES, consecutive_failures=0, failure_ratio=0.5, minimum_calls=4, window_seconds=30))
    bench.fail(3)
    bench.clock.advance(31)
    bench.fail(3)
    assert bench.stands(CircuitState.CLOSED)
    bench.fail()
    assert bench.stands(CircuitState.OPEN)


def test_no_row_of_failures_opens_it_when_rows_are_turned_off() -> None:
    bench = Bench(replace(RULES, consecutive_failures=0, minimum_calls=1_000_000))
    bench.fail(5000)
    assert bench.stands(CircuitState.CLOSED)


def test_open_circuit_refuses_until_its_time_and_says_when() -> None:
    bench = Bench()
    bench.open()
    assert bench.refused().retry_after == 10
    assert bench.circuit.retry_after() == 10
    bench.clock.advance(7.5)
    assert bench.refused().retry_after == 3
    bench.clock.advance(2.5 - 0.001)
    assert bench.refused().retry_after == 1
    assert bench.circuit.refused == 3
    bench.clock.advance(0.001)
    bench.circuit.admit()
    assert bench.stands(CircuitState.HALF_OPEN)
    assert bench.circuit.retry_after() == 0


def test_wall_clock_that_jumps_changes_nothing() -> None:
    bench = Bench()
    bench.open()
    bench.clock.jump(1_000_000)
    assert bench.refused().retry_after == 10
    bench.clock.jump(-2_000_000)
    bench.clock.advance(10)
    bench.circuit.admit()


def test_half_open_circuit_lets_so_many_probes_through_at_once() -> None:
    bench = Bench(replace(RULES, probes=2, successes_to_close=3))
    first = bench.half_open()
    second = bench.circuit.admit()
    assert bench.refused().retry_after == 1
    bench.circuit.succeed(first)
    third = bench.circuit.admit()
    bench.refused()
    bench.circuit.succeed(second)
    assert bench.stands(CircuitState.HALF_OPEN)
    bench.circuit.succeed(third)
    assert bench.stands(CircuitState.CLOSED)


def test_abandoned_probe_frees_its_place_and_says_nothing() -> None:
    bench = Bench(replace(RULES, successes_to_close=1))
    bench.circuit.abandon(bench.half_open())
    assert bench.stands(CircuitState.HALF_OPEN)
    probe = bench.circuit.admit()
    bench.refused()
    bench.circuit.succeed(probe)
    assert bench.stands(CircuitState.CLOSED)


def test_probe_that_takes_too_long_gives_up_its_place_but_not_its_say() -> None:
    bench = Bench(replace(RULES, probes=2, successes_to_close=1, open_seconds=10))
    first = bench.half_open()
    bench.clock.advance(6)
    bench.circuit.admit()
    bench.clock.advance(3.9)
    bench.refused()
    bench.clock.advance(0.1)
    bench.circuit.admit()  # in the place of the first
    bench.refused()
    bench.circuit.abandon(first)
    bench.refused()  # it had no place to free


@pytest.mark.parametrize(("end", "state"), [("succeed", CircuitState.CLOSED), ("fail", CircuitState.OPEN)])
def test_late_end_of_a_probe_counts(end: str, state: CircuitState) -> None:
    bench = Bench(replace(RULES, successes_to_close=1))
    late = bench.half_open()
    bench.clock.advance(100)
    bench.circuit.admit()
    getattr(bench.circuit, end)(late)
    assert bench.stands(state)


def test_failed_probe_opens_it_again_for_longer_up_to_the_limit() -> None:
    bench = Bench()
    bench.circuit.fail(bench.half_open())
    for seconds in (20, 40, 60, 60):
        assert bench.circuit.retry_after() == seconds
        bench.clock.advance(seconds)
        bench.fail()
    assert bench.circuit.openings == 6


def test_time_open_starts_over_once_it_was_closed() -> None:
    bench = Bench(replace(RULES, successes_to_close=1))
    bench.circuit.fail(bench.half_open())
    bench.clock.advance(20)
    bench.succeed()
    assert bench.stands(CircuitState.CLOSED)
    bench.open()
    assert bench.circuit.retry_after() == 10


def test_limit_below_the_first_time_open_is_no_shortcut() -> None:
    bench = Bench(replace(RULES, open_seconds=10, max_open_seconds=1))
    bench.open()
    assert bench.circuit.retry_after() == 10


def test_jitter_only_lengthens_and_is_drawn_anew() -> None:
    lengths = []
    bench = Bench(replace(RULES, jitter=0.5, open_growth=1))
    bench.open()
    for _ in range(50):
        lengths.append(bench.circuit.retry_at - bench.clock.monotonic())
        bench.clock.advance(lengths[-1])
        bench.fail()
    assert all(10 <= length <= 15 for length in lengths)
    assert max(lengths) - min(lengths) > 3


def test_growth_without_end_does_not_overflow() -> None:
    bench = Bench(replace(RULES, open_growth=10, max_open_seconds=1e6))
    bench.open()
    for _ in range(400):
        bench.clock.advance(1e6)
        bench.fail()
    assert bench.circuit.retry_after() == 1_000_000


def test_what_ends_after_the_circuit_moved_on_is_ignored() -> None:
    bench = Bench(replace(RULES, successes_to_close=2))
    early = [bench.circuit.admit() for _ in range(4)]
    bench.open()
    retry_at = bench.circuit.retry_at
    bench.clock.advance(1)
    bench.circuit.fail(early[0])
    bench.circuit.succeed(early[1])
    assert (bench.circuit.state, bench.circuit.retry_at) == (CircuitState.OPEN, retry_at)
    bench.clock.advance(9)
    probe = bench.circuit.admit()
    bench.circuit.succeed(early[2])
    bench.circuit.fail(early[3])
    assert bench.stands(CircuitState.HALF_OPEN)
    bench.refused()  # none of them freed the probe's place
    bench.circuit.succeed(probe)
    bench.succeed()
    assert bench.stands(CircuitState.CLOSED)


def test_probe_of_an_earlier_try_does_not_close_a_later_one() -> None:
    bench = Bench(replace(RULES, probes=2, successes_to_close=1))
    bad, late = bench.half_open(), bench.circuit.admit()
    bench.circuit.fail(bad)
    bench.clock.advance(20)
    probe = bench.circuit.admit()
    bench.circuit.succeed(late)
    assert bench.stands(CircuitState.HALF_OPEN)
    bench.circuit.succeed(probe)
    assert bench.stands(CircuitState.CLOSED)


def test_permit_ends_once() -> None:
    bench = Bench()
    permit = bench.circuit.admit()
    bench.circuit.fail(permit)
    for _ in range(5):
        bench.circuit.fail(permit)
        bench.circuit.succeed(permit)
        bench.circuit.abandon(permit)
    assert bench.circuit.snapshot()["consecutive_failures"] == 1


def test_closing_forgets_the_failures_that_opened_it() -> None:
    bench = Bench(replace(RULES, minimum_calls=3, successes_to_close=1))
    bench.open()
    bench.clock.advance(10)
    bench.succeed()
    bench.fail(2)
    assert bench.stands(CircuitState.CLOSED)


def test_snapshot_tells_where_it_stands_in_values_for_json() -> None:
    bench = Bench()
    bench.succeed()
    bench.fail(2)
    assert orjson.loads(orjson.dumps(bench.circuit.snapshot())) == {
        "state": "closed",
        "since": "2023-11-14T22:13:20+00:00",
        "retry_after_seconds": 0,
        "openings": 0,
        "refused": 0,
        "consecutive_failures": 2,
        "probes_under_way": 0,
        "probe_successes": 0,
        "window": {"calls": 3, "failures": 2, "failure_ratio": pytest.approx(2 / 3)},
    }
    bench.clock.advance(5)
    bench.fail()
    bench.refused()
    snapshot = bench.circuit.snapshot()
    assert (snapshot["state"], snapshot["openings"], snapshot["refused"]) == ("open", 1, 1)
    assert snapshot["since"] == datetime.fromtimestamp(bench.clock.wall(), UTC).isoformat()
    assert snapshot["retry_after_seconds"] == 10


class CircuitMachine(RuleBasedStateMachine):
    """Any order of calls, ends and pauses, against the promises of the module."""

    @initialize(
        probes=st.integers(1, 3), successes=st.integers(1, 3), row=st.integers(0, 4), ratio=st.sampled_from([0.3, 1.0])
    )
    def begin(self, probes: int, successes: int, row: int, ratio: float) -> None:
        self.rules_used = CircuitRules(
            consecutive_failures=row,
            failure_ratio=ratio,
            minimum_calls=5,
            window_seconds=20,
            open_seconds=5,
            open_growth=2,
            max_open_seconds=20,
            jitter=0.2,
            probes=probes,
            successes_to_close=successes,
        )
        self.bench = Bench(self.rules_used)
        self.under_way: list[tuple[Permit, int]] = []  # and how many moves there had been when it was given

    @property
    def circuit(self) -> Circuit:
        return self.bench.circuit

    @rule()
    def call(self) -> None:
        before = self.circuit.state
        waiting = before is CircuitState.OPEN and self.bench.clock.monotonic() < self.circuit.retry_at
        full = before is CircuitState.HALF_OPEN and len(self.probing()) >= self.rules_used.probes
        if waiting or full:
            retry_after = self.bench.refused().retry_after
            assert retry_after is not None
            assert 1 <= retry_after <= 20 * 1.2 + 1
        else:
            self.under_way.append((self.circuit.admit(), len(self.bench.moves)))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), end=st.sampled_from(["succeed", "fail", "abandon"]))
    def end(self, data: st.DataObject, end: str) -> None:
        place = data.draw(st.integers(0, len(self.under_way) - 1))
        permit, given_at = self.under_way.pop(place)
        current = given_at == len(self.bench.moves)
        before = self.circuit.state
        getattr(self.circuit, end)(permit)
        if end == "abandon" or not current:
            assert self.circuit.state is before
        elif before is CircuitState.HALF_OPEN and end == "fail":
            assert self.circuit.state is CircuitState.OPEN
        elif end == "succeed" and before is CircuitState.CLOSED:
            assert self.circuit.state is CircuitState.CLOSED

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)

    def probing(self) -> list[Permit]:
        """The probes that hold a place, should another ask for one."""
        now, limit = self.bench.clock.monotonic(), self.rules_used.open_seconds
        current = [permit for permit, given_at in self.under_way if given_at == len(self.bench.moves)]
        return [permit for permit in current if now - permit.started < limit]

    @invariant()
    def probes_are_bounded_while_half_open(self) -> None:
        if hasattr(self, "bench") and self.circuit.state is CircuitState.HALF_OPEN:
            assert len(self.probing()) <= self.rules_used.probes

    @invariant()
    def states_follow_one_another_as_they_may(self) -> None:
        if hasattr(self, "bench"):
            allowed = {
                (CircuitState.CLOSED, CircuitState.OPEN),
                (CircuitState.OPEN, CircuitState.HALF_OPEN),
                (CircuitState.HALF_OPEN, CircuitState.OPEN),
                (CircuitState.HALF_OPEN, CircuitState.CLOSED),
            }
            assert set(self.bench.moves) <= allowed
            assert all(one[1] is next_[0] for one, next_ in zip(self.bench.moves, self.bench.moves[1:], strict=False))


TestCircuitMachine = CircuitMachine.TestCase
TestCircuitMachine.settings = settings(deadline=None, max_examples=80, stateful_step_count=60)
