# Sidecache. `make` alone lists the targets. What installs and what runs is in scripts, so that this file stays a list.

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin

# The demo's three ports, on the loopback interface.
PORT ?= 8080
ADMIN_PORT ?= 9090
DEMO_PORT ?= 9000

# The load test: users, how many of them arrive a second, and seconds at full load.
USERS ?= 1000
SPAWN_RATE ?= 50
SECONDS_AT_LOAD ?= 60

# The whole suite runs in a process for each core; tests of one file mostly stay together, for what they share.
SIDE_BY_SIDE := --numprocesses logical --dist worksteal

export PYTHON

.DEFAULT_GOAL := help
.PHONY: help venv runtime redis run test conformance check format load bench compare lock image clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

venv: ## make .venv with everything: the sidecar, its tests, checks and load tests
	@bash .ci/setup dev

runtime:
	@bash .ci/setup runtime

redis:
	@bash .ci/setup redis

run: runtime ## start the demo API with the sidecar in front, and print what to try (PORT, ADMIN_PORT, DEMO_PORT)
	@exec $(BIN)/python -m deploy.demo.run --port $(PORT) --admin-port $(ADMIN_PORT) --demo-port $(DEMO_PORT)

# Part of the suite with ARGS="tests/unit -k cache": then coverage is not measured. The whole suite is then run
# a second time with the fast lane off: it must not show.
test: venv redis ## run the tests with branch coverage, then again without the fast lane; ARGS="tests/unit -k name": a part
ifdef ARGS
	@exec $(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --cov --cov-branch --cov-report=term --cov-fail-under=90
	$(BIN)/python -m coverage report --include='proxy/http/*,proxy/policy/*' --fail-under=100
	SIDECACHE_SERVER__FAST_LANE_MAX_BYTES=0 $(BIN)/python -m pytest $(SIDE_BY_SIDE)
endif

conformance: venv ## put the cache to the test, behaviour by behaviour, and write docs/conformance.md from what comes out
	@exec $(BIN)/python -m tests.conformance.report

check: venv ## format, lint, types, layers, Dockerfile
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

format: venv ## put the code into its format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

load: venv ## a thousand users against the sidecar; the report goes to loadtests/results (USERS, SECONDS_AT_LOAD)
	@exec $(BIN)/python -m loadtests.run_load \
		--users $(USERS) --spawn-rate $(SPAWN_RATE) --seconds $(SECONDS_AT_LOAD)

bench: runtime ## start-up time and idle memory
	@exec $(BIN)/python -m loadtests.bench_startup

compare: venv redis ## beside nginx, HAProxy and Varnish, a quarter of an hour; ARGS="--scenario hit_1k" runs a part
	@bash .ci/setup compare
	@exec $(BIN)/python -m loadtests.compare.run $(ARGS)

lock: venv ## work out the pinned requirements anew, from the ranges in pyproject.toml
	@bash .ci/lock

image: ## build the container image
	docker build --tag sidecache .

clean: ## remove what checks, tests and builds leave behind
	rm -rf build *.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find proxy plugins tests deploy loadtests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## the same, and .venv and the load reports
	rm -rf $(VENV) loadtests/results
