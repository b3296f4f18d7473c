# Two commands to know: `make check` and `make test`. `make demo` shows what Wetread is.
#
#   make demo [TORCH_INDEX=URL]   eight synthetic studies, from the sender to the draft, on this machine
#   make test                     every test that can run here
#   make check                    style, types, layers, spelling
#   make peers                    install the foreign programs the integration tests talk to (Debian, npm)
#   make prove NAME               the full size of one proof; writes docs/evidence/NAME.json (or: make prove NAME=...)
#   make clean                    remove the environment and what tools left behind

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# A package index for torch alone, for example that of the CPU builds. Empty: the default index.
TORCH_INDEX ?=
TORCH := $(shell grep '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check --require-virtualenv
# More workers than cores only make timeouts, and so do more threads in each.
TEST_WORKERS ?= 2
test prove: export OMP_NUM_THREADS ?= 1
TEST_ARGS ?=

.PHONY: help env demo test check format peers prove clean

help:
	@sed -n 's/^#   \(make.*\)/\1/p' Makefile

# The environment is one file's worth of state: made again when a version or an extra changes.
env: $(VENV)/.ready

$(VENV)/.ready: constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 was not found; set PYTHON=/path/to/python3.11"; exit 2; }
	@echo "environment 1/4: virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Wetread needs Python 3.11 or newer, $(PYTHON) is older; set PYTHON"; exit 2; }
	@# Torch first and alone: its index may be another one, and no later package may choose its build.
	@echo "environment 2/4: $(TORCH)$(if $(TORCH_INDEX), from $(TORCH_INDEX),)"
	@$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),-c constraints.txt) "$(TORCH)"
	@echo "environment 3/4: everything else, at the versions of constraints.txt"
	@$(PIP) install --quiet -c constraints.txt --editable '.[all]'
	@echo "environment 4/4: ready"
	@touch $@

demo: env
	@$(BIN)/wetread demo

test: env
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(TEST_ARGS)

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

peers:
	integration_tests/peers/install.sh

# `make prove phantom` and `make prove NAME=phantom` are the same; the word after `prove` is then no target.
ifeq (prove,$(firstword $(MAKECMDGOALS)))
NAME ?= $(word 2,$(MAKECMDGOALS))
ifneq (,$(word 2,$(MAKECMDGOALS)))
$(eval .PHONY: $(wordlist 2,9,$(MAKECMDGOALS)))
$(eval $(wordlist 2,9,$(MAKECMDGOALS)):;@:)
endif
endif

prove: env
	$(BIN)/python -m benchmarks.prove $(NAME)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf integration_tests/peers/node_modules integration_tests/peers/ohif
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
