# make demo   installs, compresses a photo and shows what came of it
# make test   installs and runs the tests
# make lint   installs and runs ruff and mypy
# make gpu    on a machine with an NVIDIA GPU: installs, tests the Triton kernels on it,
#             measures everything, writes results/gpu.json

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

export JAX_PLATFORMS ?=

.PHONY: demo test lint gpu install clean

demo: install
	$(VENV)/bin/python -m experiments.demo

test: install
	$(VENV)/bin/python -m pytest -n $(JOBS)

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

gpu: install
	$(VENV)/bin/python -m pip install --quiet --editable '.[cuda,dev]'
	$(VENV)/bin/python -c 'import jax; assert jax.default_backend() == "gpu", jax.devices()'
	$(VENV)/bin/python -m pytest tests/rasterize_test.py tests/triton_test.py \
	  tests/fit_test.py
	$(VENV)/bin/python -m experiments.benchmark --output=results/gpu.json

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed, $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	@# Tests lower programs for GPUs without one. That takes a small part of JAX's
	@# plugin, not the drivers that it depends on; without it those tests are skipped.
	@# XLA's compiler for GPUs lies apart: with it JAX looks for a GPU in every process.
	-jaxlib=$$($(VENV)/bin/python -c 'import jaxlib; print(jaxlib.__version__)'); \
	  $(VENV)/bin/python -m pip install --quiet --no-deps "jax-cuda13-plugin==$$jaxlib" && \
	  $(VENV)/bin/python -m pip install --quiet --no-deps "jax-cuda13-pjrt==$$jaxlib" \
	    --target $(VENV)/gpu-compiler
	@touch $@

clean:
	rm -rf $(VENV) build demo *.egg-info
