# `make` alone lists the targets. The environment lives in .venv and is rebuilt only when its two input files change.
PYTHON ?= python3
SEEDS ?= 1
WORKERS ?= 2
TESTS ?= tests
KILLS ?= 10
DISKS ?= 10
FUZZ ?= 1000
FUZZ_SEED ?= 1
SECONDS ?= 30
OPERATIONS ?= 2000
FAULTS_LOG ?= build/faults.jsonl
# torch of test-min: its lowest version is a CUDA build on most machines, so another one may be named.
MIN_TORCH ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
# What torch, oneDNN, MKL and the BLAS of NumPy take for the processor. Of MKL's settings, only MKL_CBWR=COMPATIBLE has
# an effect on processors that are not Intel's.
KERNELS := native avx2 sse41
KERNELS_native :=
KERNELS_avx2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell
KERNELS_sse41 := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem

.DEFAULT_GOAL := help
.PHONY: help venv demo docs test test-slow test-faults test-kernels test-min style format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## create .venv with the tested versions (PYTHON=python3)

# torch goes first and alone: its exact pin finds the CPU build, a range among other requirements may find a CUDA one.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make venv PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt "$$(grep -E '^torch==' constraints.txt)"
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: venv  ## run the built-in demonstration into runs/demo (SEEDS=1)
	$(BIN)/python examples/demo.py --output_dir runs/demo --seeds $(SEEDS)

# The variable is of mkdocs-material, which otherwise tells of its successor at each build.
docs: venv  ## build the documentation site into build/site, without a warning
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build --strict -f examples/docs/mkdocs.yml

test: venv  ## run the tests, without the slow ones (WORKERS=2)
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: venv  ## run the slow tests; those on real data read the folder named by UTGREC_DATA
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow

test-faults: venv  ## kills, broken disks and files, load (KILLS=10 DISKS=10 FUZZ=1000 FUZZ_SEED=1 SECONDS=30 OPERATIONS=2000)
	KILLS=$(KILLS) DISKS=$(DISKS) FUZZ=$(FUZZ) FUZZ_SEED=$(FUZZ_SEED) SECONDS=$(SECONDS) OPERATIONS=$(OPERATIONS) FAULTS_LOG=$(FAULTS_LOG) $(TEST_ENV) $(BIN)/python -m pytest -q -rA -n $(WORKERS) tests/faults
	$(BIN)/python tests/faults/record.py $(FAULTS_LOG)

# Threads that wait must not spin: where there are more of them than cores, the tests would take hours.
test-kernels: venv  ## run the tests under three instruction sets and two thread counts (TESTS=tests)
	@failed=; for threads in 1 2; do $(foreach kernels,$(KERNELS), \
		echo "$(kernels), OMP_NUM_THREADS=$$threads"; \
		$(TEST_ENV) $(KERNELS_$(kernels)) OMP_NUM_THREADS=$$threads OMP_WAIT_POLICY=passive \
			$(BIN)/python -m pytest -q \
			-n $$((($(WORKERS) + threads - 1) / threads)) --dist loadfile --no-loadscope-reorder -m "not slow" $(TESTS) \
			|| failed="$$failed $(kernels)/$$threads";) \
	done; \
	test -z "$$failed" || { echo "failed, as instruction set/threads:$$failed"; exit 1; }

# `name>=1.2,<3` as `name==1.2`, of what the package and its extras need; test tools are the newest.
define LOWEST
import re, sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = [each for name, needs in project["optional-dependencies"].items() if name != "dev" for each in needs]
for each in project["dependencies"] + extras:
    lowest = re.sub(r"(\[.*\])?>=([^,;]+)[^;]*", r"==\2", each)  # a constraint has no extras
    print("torch==" + sys.argv[1] if sys.argv[1] and lowest.startswith("torch==") else lowest)
endef
export LOWEST

.venv-min/.installed: pyproject.toml
	$(PYTHON) -m venv --clear .venv-min
	$(PYTHON) -c "$$LOWEST" "$(MIN_TORCH)" > .venv-min/lowest.txt
	.venv-min/bin/python -m pip --disable-pip-version-check --quiet install "$$(grep -E '^torch==' .venv-min/lowest.txt)"
	.venv-min/bin/python -m pip --disable-pip-version-check --quiet install -c .venv-min/lowest.txt -e '.[dev]'
	@touch $@

test-min: .venv-min/.installed  ## run the tests with the lowest versions allowed (MIN_TORCH=2.13.0: that torch)
	$(TEST_ENV) .venv-min/bin/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow" $(TESTS)

style: venv  ## check lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv  ## repair what style complains about, where that is safe
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove caches and build files; .venv and runs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)*' -prune -exec rm -rf {} +
