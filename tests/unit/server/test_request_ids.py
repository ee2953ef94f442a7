"""Ids of requests that came without one."""

from itertools import islice

from proxy.server.handler import request_ids


def test_no_id_is_made_twice_and_all_of_a_process_begin_alike() -> None:
    ids = list(islice(request_ids(), 5000))
    assert len(set(ids)) == 5000
    assert len({made.partition("-")[0] for made in ids}) == 1
    numbers = [int(made.partition("-")[2], 16) for made in ids]
    assert numbers == list(range(numbers[0], numbers[0] + 5000))


def test_ids_of_two_processes_differ() -> None:
    assert next(request_ids()) != next(request_ids())
