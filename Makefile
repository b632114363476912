# Two commands do everything on a fresh machine: `make caption` and `make test`.
PYTHON ?= python3
IMAGE ?= lvlm_fix/photos/coffee.jpg
BIN = .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install caption demo test test-matrix wheel lock docs screenshots check format

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/demo: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[demo]"
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test]"
	touch $@

caption: install ## describe a photo before and after; IMAGE=path takes another
	$(BIN)/lvlm-fix caption "$(IMAGE)" --method guide

demo: install .venv/demo ## the page, on http://127.0.0.1:7860
	$(BIN)/lvlm-fix demo

test: .venv/tested ## what CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test-matrix: .venv/tested ## the contract on the oldest and the newest transformers of the range
	tests/matrix.sh

wheel: install ## build it, and try it in an environment of its own, away from this tree
	tests/wheel.sh

lock: install ## every release that development stands on, into requirements.lock
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header \
		--extra test --extra docs --extra int8 -c constraints.txt pyproject.toml \
		--upgrade -o requirements.lock

docs: install ## the site, into site/; a warning is an error
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict

screenshots: .venv/tested ## the docs' pictures of the demo, made anew; needs chromium
	$(BIN)/python docs/screenshots.py

check: .venv/tested ## lint, format, types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright --pythonpath $(BIN)/python

format: .venv/tested ## let ruff mend what it can
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .
