# Every command of the project; each does the set-up it needs, once, in .venv.
#   make PYTHON=python3.12 test                           sets up with another interpreter
#   make gradient-norms ARGS=--config.hidden_size=128     hands on more arguments

PYTHON ?= python3
ARGS =

venv = .venv
constraints = constraints.txt
python = $(venv)/bin/python
pip_install = $(python) -m pip install --quiet --disable-pip-version-check --constraint $(constraints)
gradient_norms = $(python) -m experiments.gradient_norms --config=configs/gradient_norms.py

# The environment of the shell must not leak packages into .venv.
unexport PYTHONHOME PYTHONPATH

.PHONY: help
help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-22s %s\n", $$1, $$2 }' Makefile

.PHONY: gradient-norms gradient-norms-smoke benchmark
gradient-norms: $(venv)/.experiments  ## the main job: gradient norms of RNN, LSTM and GRU
	$(gradient_norms) --workdir=runs/gradient_norms $(ARGS)

gradient-norms-smoke: $(venv)/.experiments  ## the same in seconds, on tiny sizes
	$(gradient_norms):smoke --workdir=runs/gradient_norms_smoke $(ARGS)

NAME = gradient_norms
benchmark: $(venv)/.test  ## NAME=gradient_norms, lyapunov_spectrum, training_step or long_sequence
	$(python) benchmarks/$(NAME).py $(ARGS)

.PHONY: environment test test-slow test-all doctest lint types
environment: $(venv)/.test  ## .venv with all that pages, tests and benchmarks import

test: $(venv)/.test  ## the quick tests
	$(python) -m pytest -n auto --dist loadgroup -m "not slow" $(ARGS)

test-slow: $(venv)/.test  ## the others
	$(python) -m pytest -n auto --dist loadgroup -m slow $(ARGS)

test-all: $(venv)/.test  ## every test, the slow ones too
	$(python) -m pytest -n auto --dist loadgroup $(ARGS)

doctest: $(venv)/.test  ## the examples in the docstrings
	$(python) -m pytest -n auto --doctest-modules rnn_jax experiments $(ARGS)

lint: $(venv)/.test  ## ruff: errors and formatting
	$(python) -m ruff check
	$(python) -m ruff format --check

types: $(venv)/.test  ## mypy
	$(python) -m mypy

.PHONY: figures docs
figures: $(venv)/.experiments  ## docs/figures, drawn from the runs that docs/gallery keeps
	$(python) -m experiments.gallery

docs: $(venv)/.docs  ## the site in build/docs/html; runs the code of every page
	$(python) -m sphinx --quiet --fail-on-warning -d build/docs/doctrees docs build/docs/html $(ARGS)

# Both ends of the versions that setup.cfg allows; at the upper end constraints.txt has others for
# Python 3.12. Old libraries use what the newer ones below them deprecate.
.PHONY: test-oldest test-newest
test-oldest: PYTHON = python3.11
test-oldest: .venv-oldest/constraints.txt  ## the quick tests with every lower bound, on Python 3.11
	$(oldest) test ARGS="-W ignore::DeprecationWarning $(ARGS)"

test-newest: PYTHON = python3.12
test-newest:  ## the quick tests with the newest versions, on Python 3.12
	$(MAKE) venv=.venv-newest PYTHON="$(PYTHON)" test

oldest = $(MAKE) venv=.venv-oldest constraints=.venv-oldest/constraints.txt PYTHON="$(PYTHON)"
.venv-oldest/constraints.txt: setup.cfg
	$(oldest) .venv-oldest/.python
	sed -nE 's/^    ([A-Za-z0-9-]+) >=([0-9.]+).*/\1==\2/p' setup.cfg >$@

.PHONY: clean
clean:  ## remove environments, caches and build outputs; runs/ stays
	rm -rf .venv .venv-oldest .venv-newest build dist *.egg-info
	rm -rf docs/generated .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up. A stamp is written last, so what was interrupted is done again; each stamp needs the one
# before, so two installations never run at once. An experiment needs no other library's packages.
python_fits = $(shell "$(PYTHON)" -I -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
  >/dev/null 2>&1 && echo yes)
python_says = $(shell { "$(PYTHON)" --version; } 2>&1 | head -n 1)

$(venv)/.python:
	$(if $(python_fits),,$(error rnn_jax needs Python 3.11 or newer with venv and ensurepip (Debian: python3-venv), which "$(PYTHON)" is not ($(python_says)); to choose another: make PYTHON=python3.12))
	"$(PYTHON)" -m venv --clear $(venv)
	@touch $@

$(venv)/.experiments: $(venv)/.python setup.cfg pyproject.toml $(constraints)
	@echo "Setting up $(venv): the first time this fetches some hundred megabytes."
	$(pip_install) setuptools
	$(pip_install) --no-build-isolation --editable '.[experiments]'
	@touch $@

$(venv)/.test: $(venv)/.experiments
	@echo "Setting up $(venv) for tests: the first time this fetches PyTorch and others."
	$(pip_install) --no-build-isolation --editable '.[experiments,test,lint]'
	@touch $@

$(venv)/.docs: $(venv)/.test
	@echo "Setting up $(venv) for the site: the first time this fetches Sphinx and others."
	$(pip_install) --no-build-isolation --editable '.[experiments,test,lint,docs]'
	@touch $@
