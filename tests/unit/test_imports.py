"""What a start does not pay for: modules that the configuration has no use for are not imported."""

import subprocess
import sys
from pathlib import Path

import pybreaker
import pytest

CONFIG = 'upstream = { url = "http://127.0.0.1:8000" }\n'


def imported(program: str, *arguments: str) -> set[str]:
    """The names of all modules after a program, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*sys.modules)", *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def started(tmp_path: Path, more: str = "") -> set[str]:
    """What `sidecache run` has imported when its stores are open."""
    config = tmp_path / "config.toml"
    config.write_text(CONFIG + more)
    return imported(
        "import sys\n"
        "from pathlib import Path\n"
        "import proxy.__main__\n"
        "from proxy.app import Sidecar\n"
        "from proxy.clock import SystemClock\n"
        "from proxy.config import load\n"
        "from proxy.metrics.registry import Registry\n"
        "from proxy.storage.opening import open_store\n"
        "from proxy.tasks import Tasks\n"
        "config = load(Path(sys.argv[1]))\n"
        "open_store(config.values.cache, SystemClock(), Tasks(), Registry())\n",
        str(config),
    )


@pytest.mark.parametrize("l2", ["none", "lmdb"])
def test_the_redis_client_is_only_imported_where_redis_is_used(tmp_path: Path, l2: str) -> None:
    modules = started(tmp_path, f'cache = {{ l2 = "{l2}" }}\n')
    assert {"proxy.app", "lmdb", "pybreaker"} <= modules
    assert not {name for name in modules if name.split(".")[0] in {"redis", "hiredis"}}
    assert "redis.asyncio" in started(tmp_path, 'cache = { redis_url = "redis://127.0.0.1:1/0" }\n')


def test_one_process_imports_nothing_of_several(tmp_path: Path) -> None:
    assert not {name for name in started(tmp_path) if name.startswith("proxy.supervisor")}


def test_help_imports_next_to_nothing() -> None:
    modules = imported("import proxy.__main__")
    assert not {"aiohttp", "pydantic", "structlog", "lmdb", "redis"} & modules


@pytest.mark.parametrize("first", ["import redis", "import proxy.upstream.circuit"])
def test_who_uses_redis_can_import_it_whenever_it_likes(first: str) -> None:
    program = f"{first}\nimport proxy.upstream.circuit\nimport redis\nfrom redis.asyncio import Redis\n"
    assert "redis.asyncio" in imported(program)


def test_the_circuits_are_those_of_the_one_pybreaker() -> None:
    from proxy.upstream.breaker_library import pybreaker as ours

    assert ours is pybreaker
