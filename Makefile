# make demo    a first run on generated scenes, from nothing but Python; pictures at the end
# make test    the whole test suite
# make fast    the tests that take less than 0.2 s each
# make check   format, lint, types and the fast tests: before every commit
# make lint    the same without tests
# make golden  compares with the recorded numbers of the authors' release, and writes the tables of docs/fidelity.md
# make docs    the documentation site, in site/
# make gpu     tests, speed, memory, training and a whole run on a GPU in 10 minutes; PYTHON needs torch, and nothing else
# make fix     fixes the format and what ruff can fix

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Packages that tests and `evaluate --cross-check` compare with. Installed without what they ask for: panopticapi-lite wants
# NumPy below 2 without need, cityscapesscripts among others an old copy of `typing`; what they use is installed anyway.
COMPARED := panopticapi-lite cityscapesscripts pyquaternion

OUT ?= gpu.json

# `auto` is one process per core for the fast tests, and three for two cores with the slow ones, which often wait
# (tests/conftest.py); at most 8, since each needs up to 2 GB of memory.
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

.PHONY: demo test fast check lint fix golden gpu docs

demo: $(STAMP)
	$(BIN)/panformer demo

test: $(STAMP)-test
	$(PYTEST)

fast: $(STAMP)-test
	$(PYTEST) -q -m "not slow"

check: lint fast

lint: $(STAMP)-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

golden: $(STAMP)-test
	$(BIN)/python -m pytest tests/golden --fidelity-table docs/fidelity.md

docs: $(STAMP)-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

gpu:
	$(PYTHON) benchmarks/gpu_check.py --json $(OUT)

fix: $(STAMP)-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# An interrupted `venv` has no pip yet, and is made again.
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# Each stamp is younger than the files that say what to install; a larger install counts for the smaller ones.
$(STAMP): setup.cfg pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable .
	touch $(STAMP)

$(STAMP)-test: setup.cfg pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable '.[test]'
	$(BIN)/python -m pip install --no-deps $(COMPARED)
	touch $(STAMP) $(STAMP)-test

$(STAMP)-dev: setup.cfg pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable '.[dev]'
	$(BIN)/python -m pip install --no-deps $(COMPARED)
	touch $(STAMP) $(STAMP)-test $(STAMP)-dev

$(STAMP)-docs: setup.cfg pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --editable '.[docs]'
	touch $(STAMP) $(STAMP)-docs
