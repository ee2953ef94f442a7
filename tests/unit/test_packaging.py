"""What is installed, built and deployed agrees with the code and with itself."""

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy" / "docker-compose.yml"
LOCKS = ("requirements.lock", "requirements-dev.lock")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    """Versions by package in a lock file."""
    return {canonicalize_name(match[1]): match[2] for match in PIN.finditer((ROOT / name).read_text())}


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return document


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order: name and arguments, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line)]


def last_stage() -> list[tuple[str, str]]:
    steps = instructions()
    begin = max(index for index, (name, _) in enumerate(steps) if name == "FROM")
    return steps[begin:]


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_is_pinned_by_hash_and_from_nowhere_in_particular(name: str) -> None:
    text = (ROOT / name).read_text()
    rest = PIN.sub("", text).strip()
    assert rest == "", f"neither a pin nor its hashes: {rest[:200]!r}"
    assert len(pins(name)) > 20


def test_tests_run_with_the_versions_that_are_deployed() -> None:
    runtime, dev = (pins(name) for name in LOCKS)
    assert {name: dev.get(name) for name in runtime} == runtime


@pytest.mark.parametrize(
    ("lock", "extras"), [("requirements.lock", ()), ("requirements-dev.lock", ("dev", "load"))], ids=LOCKS
)
def test_locked_versions_are_within_the_ranges_of_the_project(lock: str, extras: tuple[str, ...]) -> None:
    table = project()
    wanted = [*table["dependencies"], *(one for extra in extras for one in table["optional-dependencies"][extra])]
    locked = pins(lock)
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{lock} lacks {requirement.name}: run make lock"
        assert version in requirement.specifier, f"{requirement} does not take the locked {version}: run make lock"


def test_the_lock_holds_what_builds_the_package() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for requirement in map(Requirement, build):
        assert pins("requirements.lock")[requirement.name] in requirement.specifier


def test_make_alone_lists_the_targets() -> None:
    output = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    listed = re.findall(r"^make (\w+)", output, re.MULTILINE)
    assert {"venv", "run", "test", "check", "load", "bench", "lock", "clean"} <= set(listed)
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared is not None
    assert set(listed) <= set(declared[1].split())


def test_image_runs_as_a_user_by_number_and_not_as_root() -> None:
    users = [rest for name, rest in last_stage() if name == "USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", users[-1])


def test_image_starts_the_sidecar_itself_so_that_signals_reach_it() -> None:
    steps = dict(last_stage())
    assert steps["ENTRYPOINT"] == '["sidecache"]'
    assert steps["CMD"].startswith('["run", ')


def test_image_checks_its_health_with_what_it_has() -> None:
    health = dict(last_stage())["HEALTHCHECK"]
    assert re.search(r'CMD \["python", ', health)
    assert "curl" not in health
    assert "wget" not in health


def test_image_takes_packages_by_hash_only() -> None:
    installs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-deps" in installs[1]


def test_everything_the_image_copies_is_there_and_sent_to_the_builder() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name, rest in instructions():
        if name == "COPY" and "--from=" not in rest:
            for source in rest.split()[:-1]:
                path = source.rstrip("/")
                assert (ROOT / path).exists(), f"COPY {source}"
                assert any(fnmatch(path, pattern) for pattern in allowed), f".dockerignore leaves out {source}"


def test_every_service_of_the_fleet_is_hardened_and_watched() -> None:
    document = compose()
    for name, service in document["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        watched = "healthcheck" in service or service["build"]["target"] in ("sidecache", "demo")
        assert watched, name
        assert set(service["networks"]) <= set(document["networks"]), name
        for dependency in service.get("depends_on", {}):
            assert dependency in document["services"], name
    published = [port for service in document["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8000:8000"]


def test_the_load_balancer_asks_each_sidecar_for_its_readiness() -> None:
    text = (ROOT / "deploy" / "haproxy.cfg").read_text()
    servers = re.findall(r"^ +server (\S+) (\S+):8080$", text, re.MULTILINE)
    sidecars = [name for name in compose()["services"] if name.startswith("sidecar-")]
    assert servers == [(name, name) for name in sidecars]
    assert "uri /ready" in text


def test_locust_finds_the_users_from_any_directory(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), "--list"]
    listed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=50)
    assert "Shopper" in listed.stdout
