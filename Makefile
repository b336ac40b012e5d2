# make reproduce   the published tables beside the theory, into runs/persistence (PRESET=smoke for a quick look, PRESET=full by default)
# make figures     the theory figures, simulation on the laws' lines, into runs/theory (PRESET as above)
# make atlas       where the laws hold, in round spaces and others: hundreds of layers swept, with maps, into runs/sweeps (DEVICE=cuda: more)
# make calibration how often each null is wrong where nothing is to be found, and what it sees, into runs/null_rates (PRESET as above)
# make asymmetry   function beside representation, and which similarity predicts what, of untrained experts, into runs/asymmetry (PRESET as above)
# make cluster-demo a real Dask scheduler with workers on this machine, a sweep on it, and a worker killed midway
# make test        the tests; make test-slow adds the long ones; make lint runs the linters; make bench times the main job
# make bits        the tests of bits once more, under other instruction sets, library modes and numbers of threads
# Each creates .venv on first use and installs nothing on the next.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PRESET ?= full
DEVICE ?= cpu
OUT ?= runs/persistence
BIN := .venv/bin

.PHONY: reproduce figures atlas calibration asymmetry cluster-demo test test-slow bits lint format bench clean

reproduce: .venv/installed
	$(BIN)/python -m experiments persistence --preset $(PRESET) --device $(DEVICE) --out $(OUT)

figures: .venv/installed
	$(BIN)/python -m experiments theory --preset $(PRESET) --out runs/theory

atlas: .venv/installed
	$(BIN)/python -m experiments sweeps --preset $(if $(filter cpu,$(DEVICE)),cpu,full) --device $(DEVICE) --out runs/sweeps

calibration: .venv/installed
	$(BIN)/python -m experiments null_rates --preset $(PRESET) --out runs/null_rates

asymmetry: .venv/installed
	$(BIN)/python -m experiments asymmetry --preset $(PRESET) --out runs/asymmetry

cluster-demo: .venv/installed
	$(BIN)/python -m experiments.sweeps.cluster

# A file to a process at a time, as many as there are cores: tests that share a fixture share a process.
test: .venv/installed
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

test-slow: .venv/installed
	$(BIN)/python -m pytest -m "slow and not gpu"

# A setting to a word; a slash stands for the space between the variables of one.
SETTINGS := ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2/MKL_ENABLE_INSTRUCTIONS=AVX2 \
	MKL_CBWR=AUTO/OMP_NUM_THREADS=1 MKL_CBWR=COMPATIBLE/OMP_NUM_THREADS=2

# Two settings at a time, since most of these tests are of one thread.
bits: .venv/installed
	echo $(SETTINGS) | tr ' ' '\n' | xargs -P 2 -I SETTING sh -c 'said=$$(env $$(echo SETTING | tr / " ") \
		$(BIN)/python -m pytest -m bits $$(grep -rl --include=test_*.py mark.bits tests) 2>&1); status=$$?; printf "%s\n%s\n" SETTING "$$said"; exit $$status'

lint: .venv/installed
	$(BIN)/ruff format --check simgap experiments proofs tests
	$(BIN)/ruff check simgap experiments proofs tests
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff format simgap experiments proofs tests
	$(BIN)/ruff check --fix simgap experiments proofs tests

bench: .venv/installed
	$(BIN)/python -m experiments benchmarks --device $(DEVICE) --out runs/benchmarks

# The stamp is written last, so an interrupted install is done again.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cluster,figures,proofs,test,lint]"
	touch $@

clean:
	find simgap experiments -name '*.kernel' -delete
	rm -rf .venv runs build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
