# The one place where commands live; CI calls it too. `make` alone lists them.
# Needs Python 3.10 to 3.14, nothing else: every target sets .venv up first (quick when that is done).

PYTHON ?= python3
VENV := .venv/bin
# Two test processes with one thread each: without the second setting they fight for the cores. Images of containers often
# switch byte code off, and then each test process and each process that a test starts compiles the project again.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n 2 --dist loadfile
CODE := pretrain transfer tools tests

.DEFAULT_GOAL := help
.PHONY: help setup demo study test check format lint types layers fast-tests gpu-tests docs bench soak clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup:  ## create .venv with everything (PYTHON=python3.12 chooses the interpreter)
	@$(PYTHON) tools/setup_env.py

demo: setup  ## images -> pre-training -> detection AP -> report, in some 10 minutes on 2 cores
	@$(VENV)/python tools/compare.py --config-file configs/study/demo.yaml --output-dir runs/demo

study: setup  ## the same with the time it needs and three seeds, at most 60 minutes on 2 cores
	@$(VENV)/python tools/compare.py --config-file configs/study/study.yaml --output-dir runs/study --check

test: setup  ## every test, some 10 minutes on 2 cores
	$(PYTEST)

check: setup format lint types fast-tests  ## format, lint, types and fast tests (layers among them), about a minute

format: setup  ## is the code formatted? (to format it: .venv/bin/ruff format .)
	$(VENV)/ruff format --check $(CODE)

lint: setup  ## ruff's rules
	$(VENV)/ruff check $(CODE)

types: setup  ## mypy, strict, over pretrain/ and transfer/
	$(VENV)/mypy

layers: setup  ## who may import whom
	$(VENV)/python -m pytest -q tests/test_layers.py

fast-tests: setup  ## the tests that are not marked slow
	$(PYTEST) -q -m "not slow"

gpu-tests: setup  ## what only a CUDA device shows, about a minute; skipped without one
	OMP_NUM_THREADS=1 $(VENV)/python -m pytest -q -m gpu

docs: setup  ## build the documentation strictly into docs/_build/html
	$(VENV)/python -m sphinx -q -W --keep-going docs docs/_build/html

bench: setup  ## input, step, conversion, evaluation, readout against their baselines, some 8 minutes; runs/bench.json
	@OMP_NUM_THREADS=1 $(VENV)/python tests/benchmarks/bench.py --output runs/bench.json

soak: setup  ## 200 random SIGKILLs over a two-process run, and what a plain save loses, some 15 minutes on 2 cores
	@$(VENV)/python tests/benchmarks/soak.py --output runs/soak.json

clean:  ## remove caches and build leftovers (runs/ and .venv stay)
	rm -rf build docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
