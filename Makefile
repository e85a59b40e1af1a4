# Every target does its own set-up: a virtual environment in $(VENV), made once and refreshed when pyproject.toml changes.
#   make demo                  the bundled model at work, in under a minute after set-up
#   make demo ARGS='--image photo.png --prompt "a red circle"'
#   make test                  the test suite;  make check: tests, lint and types
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?= -n auto

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types check clean

help:  ## Show the targets.
	@grep -hE '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## (.*)/make \1|\2/' | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "mmada needs Python 3.11 or newer as '$(PYTHON)': install it, or say which one to take with 'make PYTHON=python3.12'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make virtual environments: install Debian's package python3-venv ('apt install python3-venv')." >&2; exit 1; }
	@echo "Setting up $(VENV) (once; about a minute, most of it torch) ..."
	@$(PYTHON) -m venv $(VENV)

# The stamps make the second run quick; `dev` holds all that the plain install holds.
$(VENV)/.installed: $(BIN)/python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed  ## Ask, draw, inpaint with the bundled model; writes a contact sheet.
	@$(BIN)/mmada demo $(ARGS)

test: $(VENV)/.installed-dev  ## Run the tests.
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## Check style and formatting.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev  ## Apply style and formatting.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.installed-dev  ## Check types strictly.
	@$(BIN)/mypy

check: lint types test  ## All of the above, as CI does.

clean:  ## Remove the virtual environment and caches.
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
