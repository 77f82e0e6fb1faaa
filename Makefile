# Everything is set up by the targets themselves: they need python3.11, pip and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Each worker starts laboratories of its own: about 2 GB and one core.
WORKERS ?= 2

.PHONY: help setup demo test lint types contracts wheel lock clean

help:
	@echo "make demo       acquire a montage on a simulated microscope"
	@echo "make test       run the tests, in WORKERS=2 processes"
	@echo "make lint       ruff; make types: mypy; make contracts: import-linter"
	@echo "make wheel      build the wheel, install it by itself and see that it is whole"
	@echo "make lock       renew requirements.lock after a change of pyproject.toml"

setup: $(READY)

# uv installs the locked packages in seconds; where it cannot be had, pip does the same in minutes.
$(READY): requirements.lock bootstrap.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	if $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r bootstrap.lock; then \
	  $(BIN)/uv pip sync -q --python $(BIN)/python --require-hashes requirements.lock bootstrap.lock; \
	else \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock; \
	fi
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	touch $(READY)

demo: setup
	$(BIN)/montango demo

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

wheel: setup
	sh tests/wheel.sh $(BIN)

lock: setup
	$(BIN)/uv pip compile -q --python $(BIN)/python --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links pyproject.toml --extra mongo --group test --group dev -o requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
