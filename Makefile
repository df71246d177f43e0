# Everything from a bare clone: `make fit` and `make test` set up what they need, once.
PYTHON ?= python3
CONFIG ?= configs/optimized_cnn.yaml
ARGS ?=
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: help fit test test-all test-long check data tensorboard clean

help:
	@echo 'make fit          train $(CONFIG)   (CONFIG=configs/… ARGS="--trainer.max_epochs 1")'
	@echo 'make test         run the tests     (ARGS="-k schedules")'
	@echo 'make test-all     the same, every technique on every network, browsers, long runs'
	@echo 'make test-long    minutes of waiting, two machines as network namespaces (takes root)'
	@echo 'make check        formatting, lint, types, and the audit of every quoted number'
	@echo 'make data         fetch FashionMNIST and MNIST into data/'
	@echo 'make tensorboard  show the curves of runs/'
	@echo 'make clean        remove .venv and caches; data/ and runs/ stay'

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "$(PYTHON) is not Python 3.11 to 3.13: name one that is, e.g. make PYTHON=python3.12 fit"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

fit: .venv/installed
	$(BIN)/python train.py fit --config $(CONFIG) $(ARGS)

test: .venv/installed data
	$(PYTEST) $(ARGS)

test-all: .venv/installed data
	$(PYTEST) -m 'not long' $(ARGS)

test-long: .venv/installed data
	$(PYTEST) -m long $(ARGS)

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/python -m benchmarks.audit

data: .venv/installed
	$(BIN)/python -m datamodules

tensorboard: .venv/installed
	$(BIN)/tensorboard --logdir runs $(ARGS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
