# One-word targets. `make demo` and `make test` need nothing but Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test e2e coverage check lint types layers format schema lock bench clean

demo: $(VENV)/.installed
	$(BIN)/tuner search --space amd-mi355x.yaml --runtime simulated --trials 30
	$(BIN)/tuner export helm --space amd-mi355x.yaml --allow-simulated --output values.yaml

# Two runs: the second kills real processes at every write, and wants the machine to itself.
test: $(VENV)/.installed-dev
	$(BIN)/pytest -n auto --ignore=tests/e2e $(PYTEST_ARGS)
	$(BIN)/pytest -n auto tests/e2e

check: lint types layers schema-check

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy tuner
	$(BIN)/mypy --python-version 3.10 tuner/errors.py tuner/space/config.py tuner/space/secrets.py tuner/space/workload.py tuner/probe tuner/trial

layers: $(VENV)/.installed-dev
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(VENV)/.installed-dev
	$(BIN)/python -m tuner.space.schema > search_spaces/space.schema.json

.PHONY: schema-check
schema-check: $(VENV)/.installed-dev
	$(BIN)/python -m tuner.space.schema | diff - search_spaces/space.schema.json

lock: $(VENV)/.installed-dev
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links -q pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links -q --extra postgres --group dev pyproject.toml -o requirements-dev.txt

# Also the kills that repeat a place of the code at another moment of a study.
e2e: $(VENV)/.installed-dev
	TUNER_KILL_MATRIX=full $(BIN)/pytest -n auto tests/e2e

coverage: $(VENV)/.installed-dev
	$(BIN)/pytest -n auto --ignore=tests/e2e --cov --cov-report=term

bench: $(VENV)/.installed-dev
	$(BIN)/python tests/benchmarks/calibrate.py
	$(BIN)/python tests/benchmarks/model_speed.py
	$(BIN)/python tests/benchmarks/closed_form_rank.py
	$(BIN)/python tests/benchmarks/search.py --worlds 8
	$(BIN)/python tests/benchmarks/regret.py
	$(BIN)/python tests/benchmarks/report.py

clean:
	rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet --require-hashes -r requirements-dev.txt
	touch $@
