"""docs/rfc9111.md names functions and tests that exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TABLE = (ROOT / "docs" / "rfc9111.md").read_text()
MODULES = {path.stem for path in (ROOT / "proxy" / "policy").glob("[a-z]*.py")}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", TABLE))))
def test_named_test_exists(name: str) -> None:
    files = (ROOT / "tests" / "unit").rglob("test_*.py")
    assert any(re.search(rf"def {name}\(", file.read_text()) for file in files)


@pytest.mark.parametrize(("module", "name"), sorted(set(re.findall(r"`(\w+)\.(\w+)", TABLE))))
def test_named_function_exists(module: str, name: str) -> None:
    if module in MODULES:
        assert hasattr(importlib.import_module(f"proxy.policy.{module}"), name)
    else:
        assert module in {"PolicyOptions", "Reason"}, "a module of proxy.policy, or a class of it"


@pytest.mark.parametrize(("path", "names"), re.findall(r"`(proxy/[\w/]+\.py): ([\w, ]+)`", TABLE))
def test_named_function_of_http_exists(path: str, names: str) -> None:
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    assert all(hasattr(module, name.strip()) for name in names.split(","))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:proxy|tests)/[\w/]+\.py)", TABLE))))
def test_named_file_exists(path: str) -> None:
    assert (ROOT / path).is_file()
