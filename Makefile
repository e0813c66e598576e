# make app    the environment, then the live comparison in the browser
# make test   the environment (a browser included), then all tests
# make help   everything else

PYTHON ?= python3
VENV ?= .venv
# More arguments for pip, such as an index with CPU builds of torch: make app PIP_ARGS="--extra-index-url ..."
PIP_ARGS ?=
# Tests that run at the same time.
WORKERS ?= 3
# More arguments for pytest: make test ARGS="-k sampler -x"
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt $(PIP_ARGS)

.PHONY: help app learn course test lint format test-gpu bench bench-gpu doctor clean
.DEFAULT_GOAL := help

help:
	@echo "make app        open the live comparison of paged and contiguous KV memory"
	@echo "make learn      open the course's notebooks in JupyterLab"
	@echo "make course     render the course with its outputs into build/course"
	@echo "make test       run all tests (about 10 minutes on 2 cores)"
	@echo "make lint       ruff and mypy"
	@echo "make format     let ruff rewrite the code"
	@echo "make test-gpu   the tests that need a CUDA device, with the Python that has it: PYTHON=..."
	@echo "make bench      measure the engine on this machine"
	@echo "make bench-gpu  measure kernels and engine on a CUDA device: PYTHON=..."
	@echo "make doctor     what is installed and what will be used"
	@echo "make clean      remove the environment and caches"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $$($(PYTHON) --version) found. Name another: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing packages into $(VENV): a few minutes the first time."
	$(PIP) -e .
	@touch $@

$(VENV)/.course: $(VENV)/.app
	$(PIP) -e '.[course]'
	@touch $@

$(VENV)/.dev: $(VENV)/.app
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.browser: $(VENV)/.dev tests/browser/ensure_browser.sh
	sh tests/browser/ensure_browser.sh $(BIN)/python
	@touch $@

app: $(VENV)/.app
	$(BIN)/workbench app $(ARGS)

learn: $(VENV)/.course
	$(BIN)/workbench learn $(ARGS)

course: $(VENV)/.course
	$(BIN)/workbench course build
	$(BIN)/workbench course html $(ARGS)

test: $(VENV)/.browser
	REQUIRE_BROWSER=1 $(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder -m "not alone" $(ARGS)
	REQUIRE_BROWSER=1 $(BIN)/python -m pytest -m alone $(ARGS) || [ $$? -eq 5 ]  # 5: ARGS leave none of these

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Runs with whatever Python is named, because a CUDA build of torch is rarely the one in constraints.txt.
test-gpu:
	PYTHONPATH=.:kernels:apps $(PYTHON) -m pytest tests/gpu tests/kernels --ignore tests/kernels/test_torch_attention.py $(ARGS)

# Kernels and engine on this machine's GPU; the reports say which.
bench-gpu:
	PYTHONPATH=.:kernels:apps $(PYTHON) kernels/bench/run.py
	PYTHONPATH=.:kernels:apps $(PYTHON) -m workbench.cli bench gpu $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/workbench bench cpu $(ARGS)

doctor: $(VENV)/.app
	$(BIN)/workbench doctor

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
