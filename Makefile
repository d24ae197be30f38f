# Every target makes .venv first if it is missing, and again when what it is made from changed.
#   make demo          see it work, about a minute      make demo UI=1   and leave Dagster's web UI running on it
#   make test check    the tests; lint, types, layers, definitions, holes   make bench       the benchmarks (SMALL=1: under a minute each)
#   make soak          the random hunts among the tests, each for SOAK_MINUTES (30) or many times as many examples
#   make dev           embedded servers with sample data, and `dg dev` on them
# ARGS goes to the program: make demo ARGS="--tenants 3", make test ARGS="sbh_pipelines_tests/cli -x".

PYTHON ?= python3
ARGS ?=
# Processes of the tests, each with servers of its own; 0: none beside the first, for a debugger. Two for each core of two:
# half of the time a test waits for a server.
WORKERS ?= 4
# The order of the tests: another one each week, so that what fails here or in CI is repeated by the same command everywhere.
# SEED=4711 takes another, SEED= the order in the files.
SEED ?= $(shell date +%G%V)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# semgrep needs other versions of many packages than we do, so it has an environment of its own.
SEMGREP := $(VENV)/semgrep
STACK := .sbh/stack
# How long `make soak` lets each hunt go on.
SOAK_MINUTES ?= 30
BENCHES := full_backup files many_files incremental fleet_hour restore copies journal api audit

.PHONY: venv demo test soak check bench pictures dev clean

venv: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	    "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@echo "Making $(VENV): downloads the packages once, which takes a minute or two."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: $(STAMP)
	$(BIN)/sbh demo $(if $(UI),--ui) $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(if $(SEED),--randomly-seed=$(SEED),-p no:randomly) $(ARGS)

soak: $(STAMP)
	SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m soak $(ARGS)

check: $(STAMP) $(SEMGREP)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dg check defs
	$(BIN)/bandit -q -c pyproject.toml -r sbh_pipelines
	$(SEMGREP)/bin/semgrep scan --test --quiet checks
	$(SEMGREP)/bin/semgrep scan --error --quiet --metrics=off --disable-version-check --config checks/rules.yml sbh_pipelines
	$(BIN)/python checks/advisories.py

$(SEMGREP)/.installed: checks/semgrep.txt
	@$(PYTHON) -m venv $(SEMGREP)
	@$(SEMGREP)/bin/python -m pip install --quiet --disable-pip-version-check -c checks/semgrep.txt semgrep
	@touch $@

bench: $(STAMP)
	@set -e; for name in $(BENCHES); do \
	    echo "bench/$$name.py"; $(BIN)/python bench/$$name.py $(if $(SMALL),--small) $(ARGS); \
	done

# What the README and the documents show is drawn anew; docs/pictures has the programs.
pictures: $(STAMP)
	$(BIN)/python docs/pictures/architecture.py
	$(BIN)/python docs/pictures/terminal.py
	$(BIN)/python docs/pictures/console.py
	$(BIN)/python docs/pictures/dagster.py
	$(BIN)/python bench/draw.py

dev: $(STAMP)
	$(BIN)/sbh stack up --dir $(STACK) --sample
	@mkdir -p .sbh/dagster
	@trap : INT TERM; trap '$(BIN)/sbh stack down --dir $(STACK)' EXIT; \
	    SBH_SETTINGS=$(CURDIR)/$(STACK)/sbh.toml DAGSTER_HOME=$(CURDIR)/.sbh/dagster $(BIN)/dg dev $(ARGS)

clean:
	@if [ -x $(BIN)/sbh ] && [ -d $(STACK) ]; then $(BIN)/sbh stack down --dir $(STACK); fi
	rm -rf $(VENV) .sbh build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
