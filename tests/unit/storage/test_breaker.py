from proxy.storage.breaker import Breaker, TierHealth, TierState
from tests.support.clock import FakeClock
from tests.support.records import NOW


def test_failures_in_a_row_open_it_and_a_success_closes_it() -> None:
    clock = FakeClock()
    breaker = Breaker("l2", clock, max_failures=3)
    clock.advance(1)
    breaker.failed("one")
    breaker.failed("two")
    assert breaker.health().state is TierState.UP
    clock.advance(1)
    breaker.failed("three")
    assert breaker.health() == TierHealth(TierState.DOWN, NOW + 2, "three", NOW + 2, None)
    clock.advance(1)
    breaker.failed("a probe")
    assert breaker.opened == 1
    assert breaker.health() == TierHealth(TierState.DOWN, NOW + 2, "a probe", NOW + 3, None)
    clock.advance(1)
    breaker.succeeded(0.002)
    assert breaker.health() == TierHealth(TierState.UP, NOW + 4, "a probe", NOW + 3, 0.002)


def test_a_success_between_failures_starts_the_count_again() -> None:
    breaker = Breaker("l2", FakeClock(), max_failures=2)
    for _ in range(5):
        breaker.failed("now and then")
        breaker.succeeded(0.001)
    assert breaker.closed
    assert breaker.opened == 0


def test_a_fatal_failure_is_enough() -> None:
    breaker = Breaker("l2", FakeClock(), max_failures=100)
    breaker.failed("cannot be opened", fatal=True)
    assert not breaker.closed


def test_a_note_does_not_count() -> None:
    breaker = Breaker("l2", FakeClock(), max_failures=1)
    breaker.note("refused")
    assert breaker.closed
    assert breaker.health().last_error == "refused"
