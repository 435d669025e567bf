# Everything runs in .venv, made on first use and again when what is installed in it changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test lint types docs check clean

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1	/' | expand -t 16

demo: $(VENV)/.installed  ## install, train the default model on the embedded corpus, sample from it
	$(BIN)/seqlm train run.name=demo resume=auto
	$(BIN)/seqlm sample outputs/demo tokens=600

test: $(VENV)/.installed-dev  ## install with dev extras, run the whole test suite
	$(BIN)/pytest -n auto

lint: $(VENV)/.installed-dev types  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## mypy alone
	$(BIN)/mypy

docs: $(VENV)/.installed-dev  ## the documentation as pages, in build/docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs

check: lint test  ## all that CI does

clean:  ## remove the virtual environment and tool caches, keep runs
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/pip pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(BIN)/pip pyproject.toml constraints.txt
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.installed
