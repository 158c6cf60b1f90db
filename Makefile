# Every target makes the virtual environment it needs: a fresh machine needs python3 (3.11+) and make, nothing else.
#
#   make help
#
# PYTHON       the interpreter the environment is made with.
# TORCH_INDEX  an index of torch wheels (a CPU-only one, say). It is used as --index-url for the first install of
#              torch alone, without its dependencies; everything else always comes from pip's usual index.
# WORKERS      test processes. Each gets one thread, so that they do not fight over the cores.
# PYTEST_ARGS  passed on to pytest: make test PYTEST_ARGS="tests/rules -k adam"

PYTHON ?= python3
TORCH_INDEX ?=
WORKERS ?= 2
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# A stamp says "these requirements are installed"; it is older than its inputs once they change.
INPUTS := pyproject.toml constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The constraints pin torch, so no later install can swap it for another build.
INSTALL := $(PIP) install --quiet --constraint constraints.txt

ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST := $(ONE_THREAD) HYPOTHESIS_PROFILE=ci MPLBACKEND=Agg $(BIN)/python -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.PHONY: help test test-full reproduce verify figures lint bench clean distclean
.DELETE_ON_ERROR:

help:
	@echo "make reproduce   check the claims (fast tier), regenerate the theory figures and tables, compare with the committed ones"
	@echo "make verify      check all claims with the full tier's budgets"
	@echo "make figures     redraw the figures from the committed CSV files, without computing"
	@echo "make test        the tests, without the slow ones"
	@echo "make test-full   all tests"
	@echo "make lint        ruff, mypy, import order of the layers"
	@echo "make bench       benchmarks, as ratios measured in one run"
	@echo "make clean       remove build/ and caches       make distclean   remove .venv as well"

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(INSTALL) --no-deps --index-url $(TORCH_INDEX) torch)
	@touch $@

$(VENV)/.core: $(VENV)/.made $(INPUTS)
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.made $(INPUTS)
	$(INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.core

$(VENV)/.dev: $(VENV)/.made $(INPUTS)
	$(INSTALL) --editable '.[test,dev]'
	@touch $@ $(VENV)/.test $(VENV)/.core

test: $(VENV)/.test
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-full: $(VENV)/.test
	$(PYTEST) $(PYTEST_ARGS)

reproduce: $(VENV)/.core
	$(BIN)/deva-theory reproduce

verify: $(VENV)/.core
	$(ONE_THREAD) $(BIN)/deva-theory verify --tier full

figures: $(VENV)/.core
	$(BIN)/deva-theory figures all --reuse-data

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
