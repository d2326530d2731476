# Everything runs in .venv, which the first call makes and fills. The files that start with a dot in it say what is done.
# Airflow cannot live there: its pins are others.

VENV := .venv
AIRFLOW := .venvs/airflow
PYTHON := $(VENV)/bin/python
SUPPORTED := sys.exit(not (3, 11) <= sys.version_info < (3, 14))
# The pip that comes with Python may be old, and takes twice as long for what follows.
NEWER_PIP := -m pip install --quiet --upgrade pip --constraint
INSTALL := $(PYTHON) -m pip install --quiet --constraint constraints.txt --editable

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo up airflow test lint clean

help: ## print this list
	@echo 'Needs Python 3.11 and make; everything else goes into $(VENV) and $(AIRFLOW).'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s%s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo ## monitor two models over ten months of public car-loan applications
	@$(VENV)/bin/scorewatch demo

up: $(VENV)/.demo ## start Dagster's webserver and daemon; Ctrl-C stops them
	@$(VENV)/bin/scorewatch up

airflow: $(VENV)/.demo $(AIRFLOW)/.done ## start Airflow, with the demo's models as DAGs; Ctrl-C stops it
	@test -d "$${SCOREWATCH_HOME:-.scorewatch}/store/results/car-loan-vendor/1.0.0/2019-08-29" || $(VENV)/bin/scorewatch demo
	@$(VENV)/bin/scorewatch export-dags
	@home=$$(cd "$${SCOREWATCH_HOME:-.scorewatch}" && pwd) && \
	export SCOREWATCH_HOME="$$home" SCOREWATCH_STORE="$${SCOREWATCH_STORE:-file://$$home/store}" && \
	exec $(AIRFLOW)/bin/python -m airflow_bridge.standalone \
	    --store "$$SCOREWATCH_STORE" --home "$$home/airflow" --command "$(abspath $(VENV)/bin/scorewatch)"

test: lint ## check everything: format, lint, types, import rules, tests
	@sh tests/postgres.sh
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev ## only format, lint, types and import rules
	$(VENV)/bin/ruff format --check --output-format concise .
	$(VENV)/bin/ruff check --output-format concise .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

clean: ## remove both environments and every cache; results (.scorewatch) and downloads (.cache) stay
	rm -rf $(VENV) $(AIRFLOW) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.made
	@echo 'installing Scorewatch into $(VENV) (minutes the first time) …'
	@$(PYTHON) $(NEWER_PIP) constraints.txt
	@$(INSTALL) '.[monitoring,ui,demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.made
	@echo 'installing Scorewatch and what its tests need into $(VENV) (minutes the first time) …'
	@$(PYTHON) $(NEWER_PIP) constraints.txt
	@$(INSTALL) '.[monitoring,ui,demo,postgres,kubernetes,dev]'
	@touch $@ $(VENV)/.demo

# It is made whole or not at all: an environment of another Python or of older pins is not worth mending.
$(AIRFLOW)/.done: pyproject.toml constraints-airflow.txt | $(VENV)/.made
	@echo 'installing Airflow into $(AIRFLOW) (minutes the first time) …'
	@rm -rf $(AIRFLOW)
	@$(PYTHON) -m venv $(AIRFLOW)
	@$(AIRFLOW)/bin/python $(NEWER_PIP) constraints-airflow.txt
	@$(AIRFLOW)/bin/python -m pip install --quiet --constraint constraints-airflow.txt --editable '.[airflow]'
	@touch $@

# A .venv that is there already is kept if it will do.
$(VENV)/.made:
	@usable() { $(PYTHON) -c 'import pip, sys; $(SUPPORTED)' 2>/dev/null; }; \
	usable && exit; \
	for python in python3.11 python3 python3.12 python3.13 none; do \
	    "$$python" -c 'import sys; $(SUPPORTED)' 2>/dev/null && break; \
	done; \
	if [ "$$python" = none ]; then \
	    echo 'Python 3.11, 3.12 or 3.13 is needed, and neither python3.11 nor python3 on the PATH is one.' >&2; \
	    echo 'Install it (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv), then try again.' >&2; \
	    exit 1; \
	fi; \
	"$$python" -m venv $(VENV) && usable && exit; \
	echo '$(VENV) is incomplete, or of another Python: remove it with make clean, then try again.' >&2; \
	exit 1
	@touch $@
