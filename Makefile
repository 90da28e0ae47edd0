# Plain `make` lists the targets. Everything is installed into .venv by the first one that needs it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint types pytest computing calling acceptance format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## place a call to the agent over SIP on loopback; leaves recording, transcript, record and timeline
	$(BIN)/python -m voipagent.lab.demo

test: lint types pytest ## everything that must hold before a change lands

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

pytest: $(READY) ## the tests, without those that take hours or need a GPU
	+$(MAKE) --no-print-directory --jobs=2 --output-sync=target computing calling

# Two halves side by side: the one computes, the other mostly waits for real telephones.
CALLING := tests/peers tests/voipagent

computing: $(READY)
	$(BIN)/pytest -q -m 'not acceptance and not gpu' $(CALLING:%=--ignore=%)

calling: $(READY)
	$(BIN)/pytest -q -m 'not acceptance and not gpu' -o cache_dir=.pytest_cache/calling $(CALLING)

acceptance: $(READY) ## the long tests
	$(BIN)/pytest -m acceptance

format: $(READY) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the targets above made
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis demo
