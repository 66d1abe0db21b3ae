# Raftar: one word for each thing a person wants. `make` alone lists them.
# Only Python 3.11+ is needed: everything else comes from PyPI into .venv. Stamp files make a second run quick.

SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
WORKERS ?= 2
NEW_ENOUGH := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run demo test check bench overload soak simulate kafka postgres docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## the whole house on this machine: three services, keys, a curl to paste (Ctrl-C ends it)
	@$(PY) -m services run

demo: $(VENV)/.installed ## under a minute: real purchases in, churn alerts out at their exact time
	@$(PY) -m services.cli demo

test: $(VENV)/.installed-dev ## check, then every test; what the machine cannot run is listed at the end
	@$(PY) -m tests.support.kafka_broker --fetch-only || [ "$$RAFTAR_REQUIRE_ALL" != 1 ]
	@$(MAKE) --no-print-directory check
	@$(PY) -m pytest -n $(WORKERS) --dist worksteal -m "not alone"
	@$(PY) -m pytest -m alone

check: $(VENV)/.installed-dev ## style, types and the walls between packages
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

bench: $(VENV)/.installed-dev ## figures of this machine, printed and never asserted
	@for bench in tests/bench/bench_*.py; do \
	  name=$${bench%.py}; echo "== $${name##*/}"; $(PY) -m $${name//\//.} || exit 1; done

overload: $(VENV)/.installed-dev ## three times what the door can take: refusals, memory, recovery, loss; KAFKA=1 on a broker too
	@$(PY) -m tests.load.overload --seconds $(or $(SECONDS),60) $(if $(KAFKA),--kafka)

soak: $(VENV)/.installed-dev ## a whole house under steady load, an hour or SECONDS=180: memory, files, answer times
	@$(PY) -m tests.load.soak --seconds $(or $(SECONDS),3600) $(if $(KAFKA),--kafka)

simulate: $(VENV)/.installed-dev ## many more seeded schedules than the tests run: make simulate SEEDS=20000
	@SEEDS=$${SEEDS:-20000} $(PY) -m pytest -q -x tests/simulation/test_schedules.py

.PHONY: chaos
chaos: $(VENV)/.installed-dev ## kill, freeze and starve everything under load, then judge: make chaos KILLS=1000 MODE=both SEED=7
	@KILLS=$(KILLS) EVENTS=$(EVENTS) MODE=$(MODE) SEED=$(SEED) PLANT=$(PLANT) $(PY) -m tests.chaos

kafka: $(VENV)/.installed-dev ## a one-node Kafka broker for development (needs Java 17+ and Maven)
	@$(PY) -m tests.support.kafka_broker --data .cache/kafka/dev --port 9092

postgres: $(VENV)/.installed-dev ## a PostgreSQL server for development (from a wheel)
	@$(PY) -m tests.support.postgres_server

docs: $(VENV)/.installed-dev ## write the generated reference pages anew
	@$(PY) -m shared.vocabulary > docs/reference/touchpoints.md
	@$(PY) -m tests.house.settings_page
	@$(PY) -m tests.house.openapi_pages
	@$(PY) -m tests.house.asyncapi_page

clean: ## remove the environment and caches, keep data/
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info

$(PY):
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c '$(NEW_ENOUGH)' || { \
	  echo "Raftar needs Python 3.11 or newer with its venv module (on Debian: apt-get install python3-venv)."; \
	  echo "It stands somewhere else? Say where: make run PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(PY)
	@echo "Installing into $(VENV) (once) ..."
	@$(PY) -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(PY)
	@echo "Installing the development extras into $(VENV) (once) ..."
	@$(PY) -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed
