# `make demo` sets up and runs the demo; `make test` sets up and runs the tests that take minutes in
# all, `make test-all` the others after them.
PYTHON ?= python3
BIN := .venv/bin

# Where images of containers set it, every process would compile torch and Transformers anew: 5 s each.
unexport PYTHONDONTWRITEBYTECODE

# What is installed into .venv, and when: what runs (with the demo's text), what tests, the submission to
# SLURM, and what lints. Each target asks for its own and installs what still lacks.
READY_RUN := .venv/ready-run
READY_TEST := .venv/ready-test
READY_SLURM := .venv/ready-slurm
READY_LINT := .venv/ready-lint

# Kills of `make kill-test`.
N ?= 50

.PHONY: demo test test-all browser test-slurm kill-test estimate status prune bench lint format lock rulegraph tables clean compare-published

demo: $(READY_RUN)
	$(BIN)/snakemake --cores all

test: $(READY_TEST)
	$(BIN)/pytest -n 2 -m "not slow and not slurm"

# Also runs that are killed, meet a full disk or are timed, and simulations at their full length.
test-all: $(READY_TEST)
	$(BIN)/pytest -n 2

# Starts a cluster of two nodes on this machine; as root it installs SLURM's Debian packages first.
test-slurm: $(READY_TEST) $(READY_SLURM)
	$(BIN)/pytest -m slurm tests/workflow/test_slurm.py

# The browser that tests open the explorer in, from Debian's packages; as root. Without it they are skipped.
browser:
	command -v chromedriver || (apt-get update && apt-get install --yes --no-install-recommends chromium chromium-driver)

kill-test: $(READY_TEST)
	$(BIN)/python tests/support/kill.py --kills $(N)

# Jobs, operations, bytes and time of a configuration on this machine, and what of it remains: make estimate CONFIG=my.yaml
CONFIG ?= config.yaml
estimate: $(READY_RUN)
	$(BIN)/universal-neurons estimate $(CONFIG)

# How far a run is: jobs done, running, waiting and failed, time left, room on disk: make status CONFIG=my.yaml
status: $(READY_RUN)
	@$(BIN)/universal-neurons status $(CONFIG)

# Drops the activations, or WHAT=sums the partial sums, of a finished run.
WHAT ?= activations
prune: $(READY_RUN)
	@$(BIN)/universal-neurons prune $(CONFIG) --what $(WHAT)

# Speed and accuracy on this machine, side by side with the older procedure: results/bench.json.
bench: $(READY_RUN)
	$(BIN)/python benchmarks/bench.py

lint: $(READY_LINT)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint

format: $(READY_LINT)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow

# Versions and hashes of everything are in uv.lock. uv is taken from the PATH or else brought by pip.
UV := $(or $(shell command -v uv 2>/dev/null),$(BIN)/uv)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Of the lock, torch is left out, with the CUDA libraries that its wheels for Linux bring (3 GB).
FROM_LOCK = $(UV) export --quiet --frozen --no-header --no-emit-project --no-default-groups --prune torch
INTO_VENV = $(UV) pip install --quiet --python $(BIN)/python
# Packages without a wheel are built with the lock's setuptools, not the newest.
LOCKED = --require-hashes --no-deps --no-build-isolation --requirement

# torch comes from elsewhere: a build for the CPU, or what TORCH names (auto, cu130, ... as uv's
# --torch-backend has it). These are not on the package index that the lock names, and a hash of the lock
# would refuse them, so that only the version is that of the lock. Where pip is told of an index or of
# files of its own, as on a machine without the internet, torch is what pip finds there.
TORCH ?= cpu
TORCH_PIN = torch==$(shell sed -n '/^name = "torch"$$/{n;s/^version = "\(.*\)"/\1/p;}' uv.lock)

.venv/base: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "Installing into .venv"
	@$(PYTHON) -m venv .venv
	@test -x "$(UV)" || $(PIP) install --require-hashes --requirement $<
	@touch $@

$(READY_RUN): .venv/base uv.lock pyproject.toml
	@echo "Installing what runs"
	@$(FROM_LOCK) --only-group build --output-file .venv/build.txt
	@$(FROM_LOCK) --extra demo --group build --group torch-cpu --output-file .venv/run.txt
	@$(INTO_VENV) --no-deps --require-hashes --requirement .venv/build.txt
	@$(INTO_VENV) $(LOCKED) .venv/run.txt
	@if $(BIN)/python -m pip config list | grep -E 'find-links|index-url' >/dev/null; \
	    then $(PIP) install $(TORCH_PIN); \
	    else $(INTO_VENV) --torch-backend $(TORCH) $(TORCH_PIN); fi
	@$(INTO_VENV) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m universal_neurons.commands.compile
	@touch $@

$(READY_TEST): $(READY_RUN)
	@echo "Installing what tests"
	@$(FROM_LOCK) --only-group test --output-file .venv/test.txt
	@$(INTO_VENV) $(LOCKED) .venv/test.txt
	@touch $@

$(READY_SLURM): $(READY_RUN)
	@echo "Installing what submits to SLURM"
	@$(FROM_LOCK) --extra slurm --output-file .venv/slurm.txt
	@$(INTO_VENV) $(LOCKED) .venv/slurm.txt
	@touch $@

$(READY_LINT): $(READY_RUN)
	@echo "Installing what lints"
	@$(FROM_LOCK) --only-group lint --output-file .venv/lint.txt
	@$(INTO_VENV) $(LOCKED) .venv/lint.txt
	@touch $@

# A run of GPT-2 Small or Medium or Pythia 160M beside the published counts: make compare-published RUN=gpt2-small-gurnee
compare-published: $(READY_RUN)
	$(BIN)/universal-neurons compare-published results/$(RUN)

# The picture of the rules in docs/architecture.md; needs `dot` (Debian's package graphviz).
rulegraph: $(READY_RUN)
	$(BIN)/snakemake --rulegraph | $(BIN)/python docs/rulegraph.py | dot -Tsvg > docs/rulegraph.svg

# The columns of all result tables, from their declarations.
tables: $(READY_RUN)
	$(BIN)/python docs/tables.py > docs/tables.md

# Newest versions of everything, torch excepted (pyproject.toml); tests/workflow/test_environment.py says which of
# them envs/ needs too. Run the tests before committing the result.
lock: .venv/base
	$(UV) lock --upgrade
	(sed -n '/^#/p' requirements/uv.txt; echo uv | $(UV) pip compile --quiet --generate-hashes --no-header --no-annotate -) > .venv/uv.txt
	mv .venv/uv.txt requirements/uv.txt

clean:
	rm -rf .venv results .snakemake
