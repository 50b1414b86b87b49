# Needs make and Python 3.11 or 3.12, nothing else: uv is installed into .cache, everything else into .venv.
SHELL := /bin/sh
.SUFFIXES:
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
LOCK_STAMP := .venv/.requirements.lock.sha256
SETUP := $(LOCK_STAMP)
# Three workers on two cores, because some tests wait for a server or a clock.
QUICK_TESTS := $(PYTHON) -m pytest -m "not live and not heavy and not corpus" -n 3 --dist worksteal
SLOW_TESTS := $(PYTHON) -m pytest -m "live or heavy or corpus"

# The first of these that runs; PYTHON_BASE=/path/to/python decides otherwise.
PYTHON_BASE ?= $(shell for python in python3.12 python3.11 python3 python; do \
	$$python -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$python && break; done)

UV_VENV := .cache/uv
UV := $(UV_VENV)/bin/uv

export UV_LINK_MODE := copy

.PHONY: help setup up down clean status check unit coverage slow test faults mutations demo bench lock sbom FORCE

help:  ## Say what there is
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(SETUP)  ## Install the locked dependencies into .venv

up: $(SETUP)  ## Start the local stack
	@$(PYTHON) -m deploy.local up

down: $(SETUP)  ## Stop it; state stays
	@$(PYTHON) -m deploy.local down

clean: $(SETUP)  ## Stop it and drop its state
	@$(PYTHON) -m deploy.local clean

status: $(SETUP)  ## Show what runs
	@$(PYTHON) -m deploy.local status

demo: $(SETUP)  ## Start everything, load the sample corpus, ask, print the cited answer
	@$(PYTHON) -m deploy.local demo

unit: $(SETUP)  ## Run the quick tests: no process, no model, no ../shared
	$(QUICK_TESTS)

coverage: $(SETUP)  ## Run the quick tests and print their coverage, which takes half as long again
	$(QUICK_TESTS) --cov --cov-report=term

slow: $(SETUP)  ## Run the other tests: servers, the whole stack, models, the documents of ../shared
	$(SLOW_TESTS)

test: $(SETUP)  ## Run all tests, or those of T=path
ifdef T
	$(PYTHON) -m pytest $(T)
else
	$(QUICK_TESTS)
	$(SLOW_TESTS)
endif

check: $(SETUP)  ## Formatting, types, layers, contracts
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports
	$(PYTHON) -m schemas check
	$(PYTHON) -m deploy.local.example --check

faults: $(SETUP)  ## Run N=500 schedules of changes and faults from SEED=0
	$(PYTHON) -m tests.faults --schedules $(or $(N),500) --seed $(or $(SEED),0)

mutations: $(SETUP)  ## Prove that the schedules fail when the code is broken on purpose
	$(PYTHON) -m tests.faults.mutations

bench: $(SETUP)  ## Measure every figure beside its aim, or those of the groups in G="speed lane"
	@$(PYTHON) -m evals bench $(G)

sbom: $(UV)  ## List the image's packages and licences in dist/
	@./deploy/sbom.sh "$(PYTHON_BASE)" $(UV)

COMPILE := $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

lock: $(UV)  ## Resolve the dependencies anew
	$(COMPILE) pyproject.toml --group local --group dev -o requirements.lock
	$(COMPILE) pyproject.toml --group model --constraints requirements.lock -o deploy/image.lock
	$(COMPILE) --group audit -o deploy/audit.lock
	$(COMPILE) deploy/installer.in -o deploy/installer.lock
	$(COMPILE) --group downloads --constraints requirements.lock -o deploy/local/downloads.lock
	$(PYTHON) -m deploy.local.jars lock

# By content, not by time: a fresh clone's files are all equally new.
$(LOCK_STAMP): FORCE
	@./deploy/local/setup.sh "$(PYTHON_BASE)" $(UV_VENV) $@ $(if $(filter up demo slow test bench,$(MAKECMDGOALS)),downloads)

$(UV):
	@./deploy/local/setup.sh "$(PYTHON_BASE)" $(UV_VENV)

FORCE:
