"""What the set-up script says where it cannot go on, and that it leaves nothing half done behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASH = shutil.which("bash") or "/bin/bash"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the script reads, in a directory of its own."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    for name in ("pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def set_up(tree: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [BASH, str(tree / ".ci" / "setup"), *arguments]
    settings = {**os.environ, "LC_ALL": "C", **environment}
    return subprocess.run(command, env=settings, check=False, capture_output=True, text=True, timeout=55)


def test_an_interpreter_that_is_not_there_is_told_by_its_name(tree: Path) -> None:
    result = set_up(tree, "runtime", PYTHON="/nowhere/python3")
    assert result.returncode == 1
    assert "PYTHON=/nowhere/python3 is not Python 3.11 or newer" in result.stderr
    assert not (tree / ".venv").exists()


def test_without_any_python_it_says_what_to_install(tree: Path) -> None:
    tools = tree / "tools"
    tools.mkdir()
    for name in ("dirname", "cat", "cksum", "head", "grep"):
        (tools / name).symlink_to(shutil.which(name) or name)
    result = set_up(tree, "runtime", PYTHON="", PATH=str(tools))
    assert result.returncode == 1
    assert "Python 3.11 or newer is needed" in result.stderr
    assert "apt-get install" in result.stderr


def test_without_a_package_index_it_says_so_and_tries_again_the_next_time(tree: Path) -> None:
    nobody = "http://127.0.0.1:9/"  # a closed port
    settings = {"PIP_INDEX_URL": nobody, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", "PIP_FIND_LINKS": ""}
    first, second = (set_up(tree, "runtime", PYTHON=sys.executable, **settings) for _ in range(2))
    assert (first.returncode, second.returncode) == (1, 1)
    assert "packages could not be fetched" in first.stderr
    assert "packages could not be fetched" in second.stderr
    assert "making .venv" in first.stderr
    assert "making .venv" not in second.stderr  # what had been done is kept
    assert not list((tree / ".venv").glob(".installed-*"))


def test_a_word_it_does_not_know_is_refused(tree: Path) -> None:
    result = set_up(tree, "everything")
    assert result.returncode == 1
    assert "usage:" in result.stderr
