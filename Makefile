# Endcap. Every target makes its own environment first: a fresh machine needs Python 3.11 to 3.13 and nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
DATA ?=
SEED ?= 2
NAME ?= panel
WORKERS ?= 2

.PHONY: help setup servers clients demo test check bench docs clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## make the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	@found=""; for p in python3 python3.13 python3.12 python3.11 python; do \
	  if $$p -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then found=$$p; break; fi; done; \
	if [ -z "$$found" ]; then echo "Endcap needs Python 3.11, 3.12 or 3.13 on the PATH; none was found. Hint: install python3.12 and run make again." >&2; exit 1; fi; \
	echo "making $(VENV) with $$($$found --version): 1.5 GB of packages, two minutes or so"; \
	$$found -m venv --clear $(VENV) && $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## the whole story on a simulated shop (SEED=2) or on real data (DATA=folder); writes out/report.html
	@$(PY) -m endcap.project.demo $(if $(DATA),--data "$(DATA)") $(if $(SEED),--seed $(SEED))

servers:
	@for want in redis-server:redis-server postgresql:initdb; do package=$${want%%:*}; program=$${want##*:}; \
	  if ! command -v $$program >/dev/null && ! ls /usr/lib/postgresql/*/bin/$$program >/dev/null 2>&1; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then echo "installing $$package for the tests that need it"; \
	      { apt-get install --yes --quiet $$package || { apt-get update --quiet && apt-get install --yes --quiet $$package; }; } >/dev/null 2>&1 || true; fi; \
	    command -v $$program >/dev/null || ls /usr/lib/postgresql/*/bin/$$program >/dev/null 2>&1 || echo "no $$program: the tests that need it are skipped" >&2; \
	  fi; done

clients: setup
	@$(PY) benchmarks/mlflow_clients.py --make

test: setup servers clients  ## all tests; redis-server, PostgreSQL and MLflow's clients are installed where that may be, or their tests skipped
	@$(PY) -m pytest -q -n $(WORKERS) --dist worksteal

check: setup  ## lint, types, import law, reference pages up to date
	@$(VENV)/bin/ruff check src tests benchmarks examples
	@$(VENV)/bin/ruff format --check src tests benchmarks examples
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(PY) -m endcap.faces.cli.reference --check docs/reference.md
	@$(PY) -m endcap.faces.cli.access --check docs/access.md

bench: setup  ## a benchmark with its peers: NAME=panel | store-day | start-up | kill-storm | members | freshretail | hourly | scale | comparison | bad-input | drift | materialisation | online | join | postgres | access | tracking | registry | backup | mlflow-clients | tracking-http | quotas | keys | privacy
	@$(PY) benchmarks/$(subst -,_,$(NAME)).py

docs: setup  ## write docs/reference.md and docs/access.md from the table of verbs
	@$(PY) -m endcap.faces.cli.reference --write docs/reference.md
	@$(PY) -m endcap.faces.cli.access --write docs/access.md

clean:  ## remove the environment and what runs left
	@rm -rf $(VENV) out .endcap .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
