# make train, make test: each builds .venv first if it is not there. Needed: Python 3.11 or newer, and make.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help train test lint docs clean

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

train: .venv/installed  ## train a small network in the modes 2, 4, 8, 32 on real digits (3 to 6 minutes with the installation)
	$(BIN)/python train.py

test: .venv/installed  ## all tests (on 2 cores 7 minutes of a Zen 4, 13 to 19 of a Zen 3)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: .venv/installed  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/installed  ## the site of docs/ and docstrings into build/docs; a warning or a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:  ## remove .venv and caches; checkpoints stay
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
