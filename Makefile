# Everything a newcomer types. Needs Python 3.11+, git and make; all else is installed into .venv, pinned and hashed.
.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-matrix test-stack test-faults test-compose bench bench-methods chaos soak env screenshots clean python
SHELL := /bin/bash -o pipefail

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PINS := requirements/base.txt requirements/torch.txt requirements/dev.txt
# The first of these that runs and is new enough; `make PYTHON=/path/to/python` overrides.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Set UV= to empty to install with pip although uv is there.
UV ?= $(shell uv --version >/dev/null 2>&1 && echo uv)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv: pinned, hashed requirements and this checkout (again only when the pins change)

demo: $(READY) ## Run the demo experiment in one process; the report is in runs/demo
	$(BIN)/quorate run experiments/demo.yaml

check: $(READY) ## Lint, format, types (mypy --strict), import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/pytest -q tests/unit/test_architecture.py

test: $(READY) ## Unit, contract, paper and embedded-run tests: no server, no Docker
	$(BIN)/pytest -m "not stack and not compose"

test-matrix: $(READY) ## Every allowed combination of method, codec, selector, aggregator and mode, on toy data
	QUORATE_MATRIX=1 $(BIN)/pytest -s -q --timeout 3600 tests/runs/test_matrix.py

test-stack: $(READY) ## Tests on a real Valkey, S3, Celery workers and Celery Flower, started here
	$(BIN)/pytest -m "stack and not faults"

test-faults: $(READY) ## The same stack killed, frozen, cut off and filled up, part by part: about 12 minutes
	$(BIN)/pytest -m faults

test-compose: $(READY) ## Tests on a Docker engine: build the image, docker compose up, down
	$(BIN)/pytest -m compose

bench: $(READY) ## Measure overhead, time to target and accuracy; writes docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-methods: $(READY) ## Study METHOD against FedAvg and its own ablations; goes on where it was; writes docs/studies.md
	$(BIN)/python -m benchmarks.study $(METHOD)

chaos: $(READY) ## Kill, freeze and cut off parts of a running stack for MINUTES (10), audit every run
	$(BIN)/python -m scripts.chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

soak: $(READY) ## Empty rounds for MINUTES (30): memory, keys and objects must stay flat
	$(BIN)/python -m scripts.soak --minutes $(or $(MINUTES),30)

screenshots: $(READY) ## Take docs/images/flower.png and report.png again, from real runs
	QUORATE_SCREENSHOTS=1 $(BIN)/pytest -m stack tests/stack/test_flower.py tests/stack/test_page.py

env: .env ## Write .env with random passwords for compose.yaml, if there is none

.env: | .env.example python
	@umask 077 && $(PYTHON) -c 'import re, secrets, sys; \
	print(re.sub(r"(?m)_PASSWORD=$$", lambda m: m[0] + secrets.token_hex(24), sys.stdin.read()), end="")' \
	<.env.example >.env.part && mv .env.part .env
	@echo "wrote .env with random passwords"

python:
	@test -n "$(PYTHON)" || { echo "Quorate needs Python 3.11 or newer: install it, or say make PYTHON=/path/to/it" >&2; exit 2; }

clean: ## Remove .venv, caches and build output; runs/ and .env stay
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): $(PINS) pyproject.toml | python
ifneq ($(UV),)
	test -x $(BIN)/python || $(UV) venv --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	$(UV) pip install --python $(BIN)/python --require-hashes $(addprefix -r ,$(PINS))
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
else
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --require-hashes $(addprefix -r ,$(PINS))
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
endif
	@touch $@
