# make demo: from real micrographs to a map. make test: every check. Both set themselves up.
PYTHON ?= python3
BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: .venv/.core
	$(BIN)/verglas demo

test: .venv/.dev
	$(BIN)/python -m pytest -n 2

lint: .venv/.dev
	$(BIN)/ruff check src tests tools
	$(BIN)/ruff format --check src tests tools
	$(BIN)/lint-imports
	$(BIN)/mypy

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "verglas needs Python 3.11 or newer: got $$($(PYTHON) --version 2>&1); set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { echo "could not make .venv: install the venv module (Debian: apt install python3-venv)"; exit 1; }
	@touch $@

.venv/.core: .venv/.python pyproject.toml constraints.txt
	@echo "installing verglas into .venv (about two minutes the first time) ..."
	@$(PIP) install -q -c constraints.txt -e . || \
	  { echo "installation failed: is there a network, and 5 GB of disk? run the same command again to go on"; exit 1; }
	@touch $@

.venv/.dev: .venv/.core
	@echo "installing the development tools ..."
	@$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv demo-project
