"""When a worker that died is started again."""

import pytest

from proxy.supervisor.fleet import LAST_RESTART_SECONDS, _delay_seconds


@pytest.mark.parametrize(
    ("failures", "longest"),
    [(0, 0.1), (1, 0.1), (2, 0.2), (3, 0.4), (7, 6.4), (8, LAST_RESTART_SECONDS), (10**6, LAST_RESTART_SECONDS)],
)
def test_pauses_double_up_to_a_limit_and_are_not_all_alike(failures: int, longest: float) -> None:
    pauses = [_delay_seconds(failures) for _ in range(200)]
    assert all(longest / 2 <= pause <= longest for pause in pauses)
    assert len(set(pauses)) > 100
