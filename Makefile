# make demo   installs, compresses a photo and shows what came of it
# make test   installs and runs the tests
# make lint   installs and runs ruff and mypy

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

export JAX_PLATFORMS ?=

.PHONY: demo test lint install clean

demo: install
	$(VENV)/bin/python -m experiments.demo

test: install
	$(VENV)/bin/python -m pytest -n $(JOBS)

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed, $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build demo *.egg-info
