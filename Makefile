# Every target does its own set-up: a virtual environment in $(VENV), made once and refreshed when the dependencies change.
#   make demo                  the bundled model at work, in under a minute after set-up
#   make demo ARGS='--image photo.png --prompt "a red circle"'
#   make test                  the test suite;  make check: style, types, tests, documentation
#   make test TORCH=torch      with the newest torch of the package index (on Linux that brings the CUDA libraries)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?= -n auto
# On Linux the build of torch for CPUs: the one of PyPI brings gigabytes of CUDA libraries. It is taken from the package index in use
# if that has it, and from PyTorch's own otherwise.
PINNED_TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
TORCH ?= $(PINNED_TORCH)$(if $(filter Linux,$(shell uname -s)),+cpu)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Another torch than the pinned one comes with versions of its own choice.
CONSTRAINTS := $(if $(filter $(PINNED_TORCH)%,$(TORCH)),-c constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test slow long lint format types docs check clean

help:  ## Show the targets.
	@grep -hE '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## (.*)/make \1|\2/' | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "mmada needs Python 3.11 or newer as '$(PYTHON)': install it, or name another one with 'make PYTHON=python3.12'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make virtual environments: install Debian's package python3-venv ('apt install python3-venv')." >&2; exit 1; }
	@echo "Setting up $(VENV) (once; about a minute, most of it torch) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: $(BIN)/python constraints.txt
	@$(PIP) $(CONSTRAINTS) '$(TORCH)' 2>/dev/null || $(PIP) --no-deps --index-url $(TORCH_INDEX) '$(TORCH)' 2>/dev/null \
	  || $(PIP) $(CONSTRAINTS) '$(subst +cpu,,$(TORCH))' \
	  || { echo "$(TORCH) is not available here: name another one with 'make TORCH=torch'." >&2; exit 1; }
	@touch $@

# The stamps make the second run quick; `dev` contains the plain install.
$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	@$(PIP) $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	@$(PIP) $(CONSTRAINTS) -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.torch pyproject.toml
	@$(PIP) $(CONSTRAINTS) -e '.[docs]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed  ## Ask, draw, inpaint with the bundled model; writes a contact sheet.
	@$(BIN)/mmada demo $(ARGS)

test: $(VENV)/.installed-dev  ## Run the tests but those marked slow or long.
	@$(BIN)/python -m pytest -m "not slow and not long" $(PYTEST_ARGS)

slow: $(VENV)/.installed-dev  ## Run the tests marked slow: whole runs, killed processes, odd input.
	@$(BIN)/python -m pytest -m "slow and not long" $(PYTEST_ARGS)

long: $(VENV)/.installed-dev  ## Run the tests marked long: trainings of many minutes, not in CI.
	@$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## Check style and formatting.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev  ## Apply style and formatting.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.installed-dev  ## Check types strictly.
	@$(BIN)/mypy

docs: $(VENV)/.installed-docs  ## Build the documentation into build/site; warnings are errors.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

check: lint types docs slow test  ## All of the above, as CI does.

clean:  ## Remove the virtual environment, the built site and caches.
	@rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
