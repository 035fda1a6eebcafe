# The doors. Each sets up what it needs; `make help` explains them.
SHELL := /bin/sh
.DEFAULT_GOAL := help

# Without bytecode each of the many processes would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE

# No analytics leave this machine; Prefect's temporary server gets the time that a busy small machine needs to start.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS := 120

UV_VERSION := 0.13.9
READY := .venv/.ready
MEMBERS := $(wildcard packages/*/pyproject.toml stages/*/pyproject.toml)
IN_ENV := PATH="$$PWD/.venv/bin:$$PATH"
CODE := packages stages tests benchmarks

.PHONY: help setup repro flow serve test test-all check lint bench lock

help: ## Explain the doors
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# An environment knows its own path: a moved or copied clone makes its own.
ifneq ($(shell cat .venv/.place 2>/dev/null),$(shell pwd -P))
.PHONY: $(READY)
endif

$(READY): requirements.lock pyproject.toml tools/setup.sh Makefile $(MEMBERS)
	@sh tools/setup.sh $(UV_VERSION)
	@touch $(READY)

setup: $(READY) ## Make or update the environment in .venv; at once when nothing changed

repro: $(READY) ## Run every stale pipeline stage side by side, from data to tables; PRESET=paper takes a stored setting first
	@if [ -n "$(PRESET)" ]; then $(IN_ENV) dcnas preset "$(PRESET)"; fi
	@$(IN_ENV) dcnas flow run --no-prefect
	@cat results/table_1.md
	@echo "all tables and figures: $$PWD/results/index.html"

flow: $(READY) ## The same as repro, as a Prefect flow
	@$(IN_ENV) dcnas flow run

serve: $(READY) ## Run the flows of prefect.yaml at their times on this machine, with Prefect's pages, until stopped
	@$(IN_ENV) dcnas flow serve

test: $(READY) ## Run the tests, on two cores: all but those that start schedules, workers, compilers or several processes
	@echo "running the tests: about 9 minutes on 2 cores; make test-all adds those that start schedules, workers, compilers or several processes"
	@$(IN_ENV) pytest -n 2

test-all: $(READY) ## Run all tests, those too: about 15 minutes
	@$(IN_ENV) pytest -n 2 -m "long or not long"

lint: $(READY)
	@$(IN_ENV) ruff format --check $(CODE)
	@$(IN_ENV) ruff check $(CODE)
	@$(IN_ENV) mypy
	@$(IN_ENV) lint-imports

check: lint test-all ## Format, lint, types, import floors, all tests

bench: $(READY) ## Run the benchmarks; each prints ratios measured in one run
	@$(IN_ENV) sh -c 'for script in benchmarks/*.py; do echo "== $$script"; python "$$script" --json "benchmarks/results/$$(basename "$$script" .py).json" || exit 1; done'

lock: $(READY) ## Resolve the dependencies again and write requirements.lock: versions and hashes, no addresses
	@.venv/bin/uv lock --upgrade
	@.venv/bin/uv export --quiet --format requirements-txt --no-emit-workspace --no-header --no-annotate --all-packages --all-groups --output-file requirements.lock
