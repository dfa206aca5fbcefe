# What a person types. `make` alone lists it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CORPUS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint types format lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## build .venv from requirements.lock, with the clozeline command in it

$(VENV)/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: install  ## text → vocabulary → records → BERT → model server; CORPUS='path/*.txt' for your own text
	$(BIN)/clozeline demo $(if $(CORPUS),--corpus '$(CORPUS)')

test: install lint types  ## lint, types and the tests that take seconds each
	$(BIN)/python -m pytest -m "not slow"

test-all: install lint types  ## all tests, the slow ones too
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install  ## put the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install  ## write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --no-annotate \
	    --python-version 3.11 --extra dev --output-file requirements.lock pyproject.toml

clean:  ## remove what was built; data, runs and models stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
