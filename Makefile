# `make demo` sets up and runs the demo; `make test` sets up and runs the tests that take minutes in
# all, `make test-all` the others after them.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

# Kills of `make kill-test`.
N ?= 50

.PHONY: demo test test-all test-slurm kill-test estimate status prune bench lint format lock clean compare-published

demo: $(READY)
	$(BIN)/snakemake --cores all
	@echo "The report is in results/demo/report.html"

test: $(READY)
	$(BIN)/pytest -m "not slow and not slurm"

# Also runs that are killed, meet a full disk or are timed, and simulations at their full length.
test-all: $(READY)
	$(BIN)/pytest

# Starts a cluster of two nodes on this machine; as root it installs SLURM's Debian packages first.
test-slurm: $(READY)
	$(BIN)/pytest -m slurm tests/test_slurm.py

kill-test: $(READY)
	$(BIN)/python tests/support/kill.py --kills $(N)

# Jobs, operations, bytes and hours of a configuration on this machine: make estimate CONFIG=my.yaml
CONFIG ?= config.yaml
estimate: $(READY)
	$(BIN)/universal-neurons estimate $(CONFIG)

# How far a run is: jobs done, running, waiting and failed, and room on disk: make status CONFIG=my.yaml
status: $(READY)
	@$(BIN)/universal-neurons status $(CONFIG)

# Drops the activations, or WHAT=sums the partial sums, of a finished run.
WHAT ?= activations
prune: $(READY)
	@$(BIN)/universal-neurons prune $(CONFIG) --what $(WHAT)

# Speed and accuracy on this machine, side by side with the older procedure: results/bench.json.
bench: $(READY)
	$(BIN)/python benchmarks/bench.py

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# A run of GPT-2 Small beside the published counts: make compare-published RUN=gpt2-small-gurnee
compare-published: $(READY)
	$(BIN)/universal-neurons compare results/$(RUN)

# Newest versions of everything; run the tests before committing the result.
lock:
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install torch==2.13.0 --editable '.[slurm,test]'
	(sed -n '/^#/p' requirements.lock; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//') > .venv/lock
	mv .venv/lock requirements.lock

clean:
	rm -rf .venv results .snakemake
