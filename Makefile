# One-word targets. `make demo` and `make test` need nothing but Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test e2e coverage check lint types layers format schema lock bundle image bench clean

demo: $(VENV)/.installed
	$(BIN)/tuner search --space amd-mi355x.yaml --runtime simulated --trials 30
	$(BIN)/tuner report --space amd-mi355x.yaml
	$(BIN)/tuner export helm --space amd-mi355x.yaml --allow-simulated --output values.yaml

test: $(VENV)/.installed-dev
	$(BIN)/pytest -n auto --ignore=tests/e2e $(PYTEST_ARGS)

check: lint types layers schema-check

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy tuner
	$(BIN)/mypy --python-version 3.10 tuner/errors.py tuner/space/config.py tuner/space/secrets.py tuner/space/traffic.py tuner/space/workload.py tuner/probe tuner/trial

layers: $(VENV)/.installed-dev
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(VENV)/.installed-dev
	$(BIN)/python -m tuner.space.schema > search_spaces/space.schema.json

.PHONY: docs
docs: $(VENV)/.installed-dev
	$(BIN)/python -m tuner.space.reference > docs/space-file.md

.PHONY: schema-check
schema-check: $(VENV)/.installed-dev
	$(BIN)/python -m tuner.space.schema | diff - search_spaces/space.schema.json

lock: $(VENV)/.installed-dev
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links -q pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links -q --extra postgres --group dev pyproject.toml -o requirements-dev.txt
	$(BIN)/uv pip compile --python-version 3.12 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links -q -c requirements-dev.txt --extra postgres pyproject.toml -o requirements-image.txt
	$(BIN)/uv pip compile --python-version 3.10 --python-platform x86_64-manylinux_2_17 --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links -q -c requirements.txt --group bundle -o requirements-bundle.txt

# The runner and its dependencies as a folder for any serving image with CPython 3.10 to 3.13: k8s/Dockerfile ships it.
bundle: build/bundle
build/bundle: $(VENV)/bin/python requirements-bundle.txt $(shell find tuner/trial tuner/probe tuner/space tuner/errors.py tuner/runtime/kubernetes/bundle.py -name '*.py' -o -name '*.txt')
	$(BIN)/python -m tuner.runtime.kubernetes.bundle --requirements requirements-bundle.txt --output $@
	touch $@

# For the controller in a cluster, and for the init container of every trial. IMAGE names it.
IMAGE ?= sglang-tuner:latest
image:
	docker build --file k8s/Dockerfile --tag $(IMAGE) .

# Whole searches, SIGKILL of real processes at every write and call, the bundle in a foreign root: minutes of all cores.
# With KILLS=full also the kills that repeat a place of the code at another moment of a study. With KUBECONFIG set it
# searches on that cluster too (tests/e2e/test_real_cluster.py says with which variables).
e2e: $(VENV)/.installed-dev
	TUNER_KILL_MATRIX=$(KILLS) $(BIN)/pytest -n auto --dist loadgroup tests/e2e $(PYTEST_ARGS)

coverage: $(VENV)/.installed-dev
	$(BIN)/pytest -n auto --ignore=tests/e2e --cov --cov-report=term

bench: $(VENV)/.installed-dev
	$(BIN)/python tests/benchmarks/calibrate.py
	$(BIN)/python tests/benchmarks/model_speed.py
	$(BIN)/python tests/benchmarks/closed_form_rank.py
	$(BIN)/python tests/benchmarks/search.py --worlds 8
	$(BIN)/python tests/benchmarks/regret.py
	$(BIN)/python tests/benchmarks/kubernetes_requests.py
	$(BIN)/python tests/benchmarks/report.py

clean:
	rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A lock names every package, so pip resolves nothing (--no-deps): a release newer than the lock cannot break an install.
$(VENV)/.installed: $(VENV)/bin/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet --require-hashes --no-deps -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet --require-hashes --no-deps -r requirements-dev.txt
	$(BIN)/python -m pip check --disable-pip-version-check
	touch $@
