# Everything runs in .venv, which the first call makes and fills. The files that start with a dot in it say what is done.

VENV := .venv
PYTHON := $(VENV)/bin/python
SUPPORTED := sys.exit(not (3, 11) <= sys.version_info < (3, 14))
INSTALL := $(PYTHON) -m pip install --quiet --constraint constraints.txt --editable

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo up test lint clean

help: ## print this list
	@echo 'Needs Python 3.11 and make; everything else goes into $(VENV).'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s%s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo ## monitor two models over ten months of public car-loan applications
	@$(VENV)/bin/scorewatch demo

up: $(VENV)/.demo ## start Dagster's webserver and daemon; Ctrl-C stops them
	@$(VENV)/bin/scorewatch up

test: lint ## check everything: format, lint, types, import rules, tests
	$(PYTHON) -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev ## only format, lint, types and import rules
	$(VENV)/bin/ruff format --check --output-format concise .
	$(VENV)/bin/ruff check --output-format concise .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

clean: ## remove .venv and every cache; results (.scorewatch) and downloads (.cache) stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.made
	@echo 'installing Scorewatch into $(VENV) (minutes the first time) …'
	@$(INSTALL) '.[monitoring,ui,demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.made
	@echo 'installing Scorewatch and what its tests need into $(VENV) (minutes the first time) …'
	@$(INSTALL) '.[monitoring,ui,demo,dev]'
	@touch $@ $(VENV)/.demo

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
