# One command each: serve a model, test everything, measure.
#
#   make serve ARGS="server.port=9000"
#   make install TORCH=torch==2.13.0 TORCH_INDEX=     the CUDA build, on Linux x86-64
#
# PYTHON       interpreter for .venv; default: the first of 3.11 to 3.13 that is found
# TORCH        what to install as PyTorch. PyPI's Linux build is CUDA's (gigabytes), so the default
#              on Linux asks for the CPU build by its local version.
# TORCH_INDEX  where that build is looked for if pip's own index does not have it

SHELL := /bin/bash
.DEFAULT_GOAL := help

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
TORCH ?= torch==2.13.0$(if $(filter Linux,$(shell uname -s)),+cpu)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CODE := prelude graphs kernels conf server tests benchmarks

.PHONY: help install dev serve test test-slow test-clients lint format bench demo-train docs constraints clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/.installed ## create .venv with what serving needs

dev: .venv/.dev ## add what tests and benchmarks need

serve: .venv/.installed ## serve the demo model on http://127.0.0.1:8000
	$(BIN)/prelude serve $(ARGS)

test: .venv/.dev lint ## lint, check types and test
	$(BIN)/mypy
	$(BIN)/pytest -q $(ARGS)

test-slow: .venv/.dev ## the tests that take minutes
	$(BIN)/pytest -q -m slow $(ARGS)

test-clients: .venv/.dev build/clients/.installed ## real clients of other projects, on the demo model
	$(BIN)/pytest -q -m clients tests/clients $(ARGS)

lint: .venv/.dev ## check style
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

format: .venv/.dev ## mend style
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: .venv/.dev ## time the engine's steps against the machine's floor
	$(BIN)/prelude bench engine $(ARGS)

demo-train: .venv/.dev ## train the demo model again; resumes from runs/demo
	$(BIN)/python -m benchmarks.demo.train runs/demo $(ARGS)

docs: .venv/.dev ## write the tables in docs/configuration.md and docs/api.md again
	$(BIN)/prelude config --reference > docs/keys.new
	awk '/<!-- end of keys -->/ {skip = 0} !skip {print} \
		/<!-- keys -->/ {skip = 1; while ((getline line < "docs/keys.new") > 0) print line}' \
		docs/configuration.md > docs/page.new
	mv docs/page.new docs/configuration.md && rm docs/keys.new
	$(BIN)/python -m tests.api_page

constraints: .venv/.dev ## pin the versions that .venv has
	(sed -n '/^#/p' constraints.txt; $(PIP) freeze --exclude-editable | sed 's/+cpu$$//') \
		> constraints.new && mv constraints.new constraints.txt

clean: ## remove caches and build products; .venv stays
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Prelude needs Python 3.11, 3.12 or 3.13; pass PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

# First pip's own index, which may be a mirror that has the build; then PyTorch's.
.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install -q "$(TORCH)" 2>/dev/null \
		|| $(PIP) install -q $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$(TORCH)"
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.installed
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	@touch $@

# Apart from .venv: its pytest plugin would be loaded by every run of the tests.
build/schemathesis/.installed: constraints.txt
	$(BIN)/python -m venv build/schemathesis
	build/schemathesis/bin/pip install -q -c constraints.txt schemathesis==4.32.5
	@touch $@

build/clients/.installed: tests/clients/requirements.txt tests/clients/package.json
	mkdir -p build/clients/node
	$(BIN)/python -m venv build/clients/venv
	build/clients/venv/bin/pip install -q -r tests/clients/requirements.txt
	cp tests/clients/package.json build/clients/node/
	if command -v npm > /dev/null; then cd build/clients/node && npm install --no-audit --no-fund; fi
	@touch $@
