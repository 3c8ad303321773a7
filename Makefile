# make help lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# PYTHON=python3.12 chooses the interpreter that the virtual environment is made with.
VENV := .venv
BIN := $(VENV)/bin
VENV_PYTHON := $(BIN)/python
PIP := $(VENV_PYTHON) -m pip --disable-pip-version-check --no-input install --quiet

# Each stamp says that the extras it is named after are installed as pyproject.toml now asks.
RUN_INSTALLED := $(VENV)/.installed-run
DEV_INSTALLED := $(VENV)/.installed-dev
BENCH_INSTALLED := $(VENV)/.installed-bench

TEST_PROGRAMS := chromium curl gtlsclient h2load haproxy nghttpx openssl
BENCH_PROGRAMS := wrk haproxy h2load

# What a developer adds: make test ARGS='-k retry', make bench BENCH='--only keep-alive'.
ARGS ?=
BENCH ?=

.PHONY: help run test lint imports types format coverage bench bench-results clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV_PYTHON):
	tools/make_virtualenv.sh $(VENV)

$(RUN_INSTALLED): pyproject.toml | $(VENV_PYTHON)
	@echo "Installing smartproxy into $(VENV)"
	$(PIP) --editable '.[trio]'
	touch $@

$(DEV_INSTALLED): pyproject.toml | $(VENV_PYTHON)
	@echo "Installing smartproxy and what its tests need into $(VENV)"
	$(PIP) --editable '.[dev]'
	touch $@ $(RUN_INSTALLED)

$(BENCH_INSTALLED): pyproject.toml | $(VENV_PYTHON)
	@echo "Installing smartproxy and the proxies to measure it beside into $(VENV)"
	$(PIP) --editable '.[trio,bench]'
	touch $@ $(RUN_INSTALLED)

run: $(RUN_INSTALLED) ## Start the proxy on examples/quickstart.toml, with backends to try it on
	$(VENV_PYTHON) examples/quickstart.py

test: lint imports types ## Lint, import rules, types, then the whole test suite with coverage
	tools/install_debian_packages.sh tests $(TEST_PROGRAMS)
	$(VENV_PYTHON) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal --cov --cov-report term $(ARGS)

lint: $(DEV_INSTALLED) ## ruff: rules and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

imports: $(DEV_INSTALLED) ## import-linter: which package may import which
	$(BIN)/lint-imports

types: $(DEV_INSTALLED) ## mypy --strict
	$(BIN)/mypy

format: $(DEV_INSTALLED) ## Rewrite the code as ruff formats it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

coverage: $(DEV_INSTALLED) ## The last test run's coverage as pages in htmlcov/
	$(BIN)/coverage html

bench: $(BENCH_INSTALLED) ## Measure beside nginx, HAProxy, Envoy and Caddy (BENCH='--help' for options)
	tools/install_debian_packages.sh bench $(BENCH_PROGRAMS)
	$(VENV_PYTHON) -m bench.run $(BENCH)

bench-results: ## The same, and write the tables into bench/RESULTS.md
	$(MAKE) bench BENCH='--update-results $(BENCH)'

clean: ## Remove the virtual environment and everything generated
	rm -rf $(VENV) .coverage .coverage.* htmlcov coverage.xml build dist .run
	rm -rf .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
