# Two commands are all the set-up: `make demo` and `make test`. Each makes .venv by itself where it is missing.
# TORCH_INDEX: a package index to take torch from (for instance one with CPU builds); empty = the usual one.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
MARK = touch $@

.PHONY: help demo test lint types format test-slow bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: .venv/.core  ## caption the photographs in examples/ with the bundled model
	$(BIN)/blip caption examples/

test: lint types .venv/.dev  ## everything CI runs
	$(BIN)/python -m pytest -n 2

lint: .venv/.dev  ## ruff, import contract, duplicate code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pylint --disable=all --enable=duplicate-code --min-similarity-lines=8 --ignore-imports=y --ignore-signatures=y src/blip

types: .venv/.dev  ## mypy --strict
	$(BIN)/mypy

format: .venv/.dev  ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: .venv/.dev  ## tests that train a little or take long
	$(BIN)/python -m pytest -n 2 -m slow

bench: .venv/.bench  ## side by side with the installed peer
	$(BIN)/python -m benchmarks

clean:  ## remove the environment
	rm -rf .venv

.venv/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	$(MARK)

.venv/.core: .venv/.torch pyproject.toml
	$(PIP) -c constraints.txt -e .
	$(MARK)

.venv/.dev: .venv/.torch pyproject.toml
	$(PIP) -c constraints.txt -e '.[dev]'
	$(MARK)

.venv/.bench: .venv/.dev
	$(PIP) -c constraints.txt -e '.[dev,java]'
	$(MARK)
