# make demo   installs, compresses a photo and shows what came of it
# make test   installs and runs the tests
# make smoke  installs, runs the demonstration at its quickest and the tests of files and
#             formats: what is worth knowing of a Python within two minutes
# make extras installs each extra in an environment of its own and runs what it is for
# make lint   installs and runs ruff and mypy
# make gpu    on a machine with an NVIDIA GPU: installs, tests the Triton kernels on it,
#             checks them by compute-sanitizer and measures everything, to results/gpu;
#             IMAGES='kodak/*.png' adds the table of fits of those pictures, and
#             RELEASED=DIR the released GaussianImage in that folder, side by side.
#             gpu-test, -sanitize, -benchmark, -tuning, -table, -released are its parts

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

export JAX_PLATFORMS ?=

IMAGES ?=
RELEASED ?=
GPU_PYTHON ?=
GPU_RESULTS ?= results/gpu

.PHONY: demo test smoke extras lint gpu install clean \
  gpu-install gpu-test gpu-sanitize gpu-benchmark gpu-tuning gpu-table \
  gpu-released

demo: install
	$(VENV)/bin/python -m experiments.demo

test: install
	$(VENV)/bin/python -m pytest -n $(JOBS)

SMOKE_TESTS = $(patsubst %,tests/%_test.py, \
  package codec bitstream sensitivity_codec images metrics gaussians cli)

smoke: install
	$(VENV)/bin/python -m experiments.demo --effort=1 --workdir=$(VENV)/demo
	$(VENV)/bin/python -m pytest -n $(JOBS) $(SMOKE_TESTS)

extras: install
	$(VENV)/bin/python -m pytest -n $(JOBS) -m slow tests/extras_test.py

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

gpu: gpu-test gpu-benchmark gpu-tuning $(if $(IMAGES),gpu-table) $(if $(RELEASED),gpu-released) \
  gpu-sanitize

# Where GPU_PYTHON names a Python that has everything, nothing is installed.
GPU_RUN = $(or $(GPU_PYTHON),$(VENV)/bin/python)

gpu-install: $(if $(GPU_PYTHON),,install)
	$(if $(GPU_PYTHON),,$(VENV)/bin/python -m pip install --quiet --editable '.[cuda,dev]')
	$(GPU_RUN) -c 'import jax; assert jax.default_backend() == "gpu", jax.devices()'

gpu-test: gpu-install
	XLA_PYTHON_CLIENT_PREALLOCATE=false $(GPU_RUN) -m pytest -n 4 \
	  tests/rasterize_test.py tests/triton_test.py tests/fit_test.py

# Each buffer is an allocation of its own, so that what is read or written beyond it shows.
# All kernels are looked at for what is not initialized, since some write what others read.
gpu-sanitize: gpu-install
	failed=0; for tool in memcheck racecheck synccheck initcheck; do \
	  only=$$(test $$tool = initcheck || echo --kernel-name=kernel_substring=_kernel); \
	  XLA_PYTHON_CLIENT_ALLOCATOR=platform \
	  compute-sanitizer --tool=$$tool $$only --error-exitcode=1 \
	    $(GPU_RUN) -m experiments.benchmark --implementations=triton --num_gaussians=300 \
	    --sizes=97x61 --batches=1,3 --repeats=1 --calls=1 || failed=1; \
	done; exit $$failed

gpu-benchmark: gpu-install
	$(GPU_RUN) -m experiments.benchmark --output=$(GPU_RESULTS)/benchmark.json

gpu-tuning: gpu-install
	$(GPU_RUN) -m experiments.tuning --output=$(GPU_RESULTS)/tuning.json

gpu-table: gpu-install
	$(GPU_RUN) -m experiments.representation --images='$(IMAGES)' --warm_up \
	  --num_gaussians=3000,10000,20000,70000 --steps=50,100,200,500 \
	  --workdir=$(GPU_RESULTS)/representation

gpu-released: gpu-install
	@test -n '$(IMAGES)' || { echo "RELEASED needs IMAGES, of which it takes the first"; exit 1; }
	$(GPU_RUN) -m experiments.released --checkout='$(RELEASED)' \
	  --image='$(firstword $(sort $(wildcard $(IMAGES))))' --workdir=$(GPU_RESULTS)/released

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
