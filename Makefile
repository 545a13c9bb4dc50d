# `make demo` and `make test` each create .venv, install pinned versions into it, and run.
PYTHON ?= python3
BIN := .venv/bin
# Tests wait for clocks, processes and disks for half of their time.
WORKERS ?= 4
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Where it is set, every start of the command line would compile all of our modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test claims lint endurance lock clean

demo: .venv/.demo
	$(BIN)/autoresearch demo

test: .venv/.test lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

endurance: .venv/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --endurance
	$(BIN)/python bench/keep_rule.py --full --curve
	$(BIN)/python bench/search.py --full --jobs 2
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/briefing.py
	$(BIN)/python bench/contention.py
	$(BIN)/python bench/early_end.py
	$(BIN)/python bench/search.py --tinylm --jobs 2

# What is claimed of the search agent, on two of its six landscapes; CI runs it before the tests.
claims: .venv/.test
	$(BIN)/python bench/search.py --quick --only published --only mixed --jobs 2

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bin/python:
	$(PYTHON) -m venv .venv || { echo "python venv is missing: install python3-venv"; exit 1; }

.venv/.demo: requirements/demo.txt pyproject.toml | .venv/bin/python
	sh tools/install-bubblewrap.sh
	@echo "installing the pinned requirements into .venv ..."
	$(INSTALL) --require-hashes -r requirements/demo.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.test: requirements/test.txt .venv/.demo
	@echo "installing what the tests need into .venv ..."
	@# Compiled when imported, which most of it never is. Sandboxes cannot write: they find of pytest
	@# and its plug-ins what the pytest around them imported before.
	$(INSTALL) --no-compile --require-hashes -r requirements/test.txt
	@touch $@

# Rewrites the pinned requirements from pyproject.toml (needs uv).
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --extra demo --group build pyproject.toml -o requirements/demo.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --extra demo --group build --group dev -c requirements/demo.txt pyproject.toml -o requirements/test.txt

clean:
	rm -rf .venv
