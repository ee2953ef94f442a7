"""The machine's clocks."""

import time

from proxy.clock import Clock, SystemClock


def test_system_clock_reads_the_machines_clocks() -> None:
    clock: Clock = SystemClock()
    before = time.time(), time.monotonic()
    read = clock.wall(), clock.monotonic()
    after = time.time(), time.monotonic()
    assert before[0] <= read[0] <= after[0]
    assert before[1] <= read[1] <= after[1]
