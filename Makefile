# The doors. Each sets up what it needs; `make help` explains them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS := 120

UV_VERSION := 0.13.9
READY := .venv/.ready
MEMBERS := $(wildcard packages/*/pyproject.toml stages/*/pyproject.toml)
IN_ENV := PATH="$$PWD/.venv/bin:$$PATH" VIRTUAL_ENV="$$PWD/.venv"

$(READY): requirements.lock pyproject.toml $(MEMBERS)
	@sh ./tools/setup.sh $(UV_VERSION)
	@touch $(READY)

.PHONY: setup
setup: $(READY) ## Make or update the environment in .venv; at once when nothing changed
