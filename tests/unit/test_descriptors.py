"""Limits of file descriptors, in processes of their own: a hard limit that was lowered stays so."""

import subprocess
import sys

import orjson

PROGRAM = """
import resource, sys, orjson
from structlog.testing import capture_logs
from proxy.descriptors import make_room
soft, hard, clients, upstream = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
with capture_logs() as lines:
    limit = make_room(clients, upstream)
print(orjson.dumps([limit, resource.getrlimit(resource.RLIMIT_NOFILE)[0], lines]).decode())
"""


def run(soft: int, hard: int, clients: int, upstream: int) -> tuple[int, int, list[dict[str, object]]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, (soft, hard, clients, upstream))], capture_output=True, check=True
    )
    limit, now, lines = orjson.loads(done.stdout)
    return limit, now, lines


def test_the_limit_stays_where_it_is_enough() -> None:
    assert run(512, 1024, 300, 84) == (512, 512, [])


def test_it_is_raised_as_far_as_may_be_where_it_is_not_enough() -> None:
    assert run(511, 1024, 300, 84) == (1024, 1024, [])


def test_a_warning_says_what_to_do_where_even_that_is_too_little() -> None:
    limit, now, (line,) = run(256, 1024, 20_000, 256)
    assert (limit, now) == (1024, 1024)
    assert (line["log_level"], line["limit"], line["needed"]) == ("warning", 1024, 20_384)
    assert "server.max_connections to at most 640" in str(line["advice"])
    assert "LimitNOFILE" in str(line["advice"])
