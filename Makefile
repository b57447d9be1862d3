# Every target sets up what it needs on a fresh clone. `make help` lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
TESTS ?=
SERVE ?=
JOBS ?= 2
PATHS := ffn_probe dashboard tests benchmarks sample_runs docs
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup fmt lint types layers docs check test smoke demo

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: $(STAMP) ## make .venv and install the package with its development tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, found {v[0]}.{v[1]}: make setup PYTHON=/path/to/python3.11")'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

fmt: $(STAMP) ## format the code and apply the safe fixes
	$(BIN)/ruff check --fix $(PATHS)
	$(BIN)/ruff format $(PATHS)

lint: $(STAMP) ## ruff: rules and formatting
	$(BIN)/ruff check $(PATHS)
	$(BIN)/ruff format --check $(PATHS)

types: $(STAMP) ## mypy --strict over both packages
	$(BIN)/mypy

layers: $(STAMP) ## import-linter: who may import whom
	$(BIN)/lint-imports

docs: $(STAMP) ## check the README: its code runs, its tables are the current ones
	$(BIN)/python -m pytest -q tests/test_docs.py

check: lint types layers docs ## lint, types, layers and docs

test: export TESTS := $(TESTS)
test: $(STAMP) ## all tests, with what they need (TESTS="tests/runs -x" chooses, JOBS=8 at a time)
	@bash .ci/chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(TESTS)

smoke: $(STAMP) ## build the wheel, install it alone, run the command, open a sample run
	$(BIN)/python -m pytest -q tests/test_wheel.py

demo: $(STAMP) ## record two models, compare, write the report, serve the dashboard (SERVE=--no-serve: do not serve)
	$(BIN)/ffn-probe demo $(SERVE)
