"""The estimate against what runs really planned, stored and took."""

from __future__ import annotations

import re
import time
from collections import Counter

import numpy as np
import pytest
import tiny
import yaml
from grids import tokenizer
from pipeline import gpt2
from tiny import configure, snakemake

from universal_neurons.activations import kernels
from universal_neurons.commands import estimate
from universal_neurons.plan.config import resolve
from universal_neurons.plan.counts import counts
from universal_neurons.plan.grid import Grid
from universal_neurons.plan.shares import shares
from universal_neurons.plan.units import in_bytes, in_time

MODES = {
    "exact": {},
    "screened": {"correlate": {"mode": "screened"}},
    "direct": {"capture": {"store": False}},
    "direct, little memory": {"capture": {"store": False}, "correlate": {"memory_gb": 0.06}},
    "trained": {
        "models": {"source": "train", "seeds": [0, 1], "steps": [0, 5], "train": {"layers": 2}},
        "corpus": {"source": "text", "path": "x.txt"},
    },
    "subsets": {
        "models": {"tokenizer": "tokenizer"},
        "corpus": {"source": "text", "path": {"x": "x.txt", "y": "y.txt"}},
    },
    "one step, one shard": {"models": {"steps": [1]}, "corpus": {"shards": 1}},
}


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A folder with three models of 3 x 400 neurons at two steps, and tokens."""
    where = tmp_path_factory.mktemp("estimate")
    for seed in range(3):
        for step in (1, 2):
            model = gpt2(10 * seed + step, d_mlp=400, layers=3)
            model.module.save_pretrained(where / f"models/{seed}/{step}")
    for name in ("x.txt", "y.txt"):
        (where / name).write_text("some words " * 30_000)
    tokenizer(["some", "words"]).save_pretrained(where / "tokenizer")
    np.save(where / "tokens.npy", np.random.default_rng(0).integers(0, 61, (1300, 32)))
    return where


def configured(where, mode, **sections):
    """Write the configuration of a mode and return its grid."""
    config = {
        "run": re.sub(r"\W+", "-", mode),
        "models": {
            "source": "local",
            "seeds": [0, 1, 2],
            "steps": [1, 2],
            "path": str(where / "models/{seed}/{step}"),
        },
        "corpus": {
            "source": "tokens",
            "path": "tokens.npy",
            "tokens": 1200 * 32,
            "heldout_tokens": 64 * 32,
            "context_length": 32,
            "exclude_token_ids": [],
            "shards": 2,
        },
    }
    for name, keys in {**MODES[mode], **sections}.items():
        config[name] = {**config.get(name, {}), **keys}
    configure(where, config)
    return Grid.of(resolve(config))


RATES = {"int8": 1e12, "float32": 2e11, "model": 1e11, "differences": 1e11}


@pytest.fixture
def said_by(monkeypatch):
    """What the estimate prints: jobs by rule of the whole grid, and of what is still to do."""
    monkeypatch.setattr(estimate, "rates", lambda: RATES)
    for name, value in tiny.environment().items():
        monkeypatch.setenv(name, value)

    def said_by(where, config="config.yaml"):
        monkeypatch.chdir(where)
        page = estimate.page(config, tiny.ROOT / "Snakefile")
        found = {line: re.match(r"(\w+) +(\d+) .{30} +(\d+) ", line) for line in page.splitlines()}
        rows = [row.groups() for row in found.values() if row]
        # The others are two lines of headings, and sentences.
        assert sum(not row and not line.endswith(".") for line, row in found.items()) == 2
        return tuple({row[0]: int(row[i]) for row in rows if row[i] != "0"} for i in (1, 2))

    return said_by


@pytest.mark.parametrize("mode", MODES)
def test_the_jobs_are_those_of_the_dry_run_rule_by_rule(mode, where, said_by):
    grid = configured(where, mode)
    plan = tiny.finish(where, "--dry-run").stdout
    jobs = Counter(re.findall(r"^(?:local)?rule (\w+):$", plan, re.MULTILINE))
    assert counts(grid) == jobs
    expected = {**jobs, "total": int(re.search(r"^total +(\d+)$", plan, re.MULTILINE)[1])}
    assert said_by(where) == (expected, expected)


def test_what_remains_is_costed_apart_from_the_whole_grid(local, said_by):
    """Of a finished run nothing remains, of one with a step more its jobs."""
    where, config = local
    whole, left = said_by(where)
    assert whole["capture"] == 6
    assert left == {}
    models = {**config["models"], "steps": [10, 20, 30]}
    (where / "more.yaml").write_text(yaml.safe_dump({**config, "models": models}))
    whole, left = said_by(where, "more.yaml")
    assert whole["capture"] == 9
    plan = tiny.finish(where, "--dry-run", "--configfile", "more.yaml").stdout
    assert {rule: jobs for rule, jobs in left.items() if rule not in ("all", "total")} == (
        tiny.jobs_in(plan)
    )
    assert left["capture"] == 3


def test_jobs_of_a_rule_cost_their_share_of_it(where):
    grid = configured(where, "exact")
    whole, some = shares(grid, counts(grid)), shares(grid, {"capture": 3, "restore": 3})
    assert whole["capture"].jobs == 6
    for share in some.values():
        assert share.operations == pytest.approx(whole["capture"].operations / 2)
    both = whole["capture"].operations + whole["capture_first"].operations
    tokens = 3 * 2 * 1200 * 32
    d_mlp, layers = 400, 3
    products = 2 * d_mlp * layers * d_mlp
    assert both == pytest.approx(tokens * (products + grid.forward_operations()))


def test_small_studies_are_not_rounded_to_nothing(where):
    grid = configured(where, "exact")
    whole = shares(grid, counts(grid))
    said = estimate.table(whole, None, RATES)
    rows = [line for line in said.splitlines()[2:] if not line.startswith("all")]
    assert len(rows) == len(whole)
    assert all(re.search(r"[1-9][\d.]* (s|min|h)$", row) for row in rows)
    assert not re.search(r"(?<![\d.])0(\.0+)? (s|min|h|kB|MB|GB|TB)\b", said)


def test_units_suit_the_size():
    times = [in_time(seconds) for seconds in (0, 0.4, 12, 90, 3599, 5400, 100 * 3600)]
    assert times == ["0 s", "0.4 s", "12 s", "1.5 min", "60 min", "1.5 h", "4.2 days"]
    sizes = [in_bytes(10**power) for power in (0, 3, 6, 9, 12, 15)]
    assert sizes == ["1 B", "1.0 kB", "1.0 MB", "1.0 GB", "1.0 TB", "1,000 TB"]


@pytest.mark.slow
def test_bytes_and_time_are_those_of_a_run(where):
    grid = configured(where, "exact", ablation={"controls": 20})
    found = shares(grid, counts(grid)).values()
    rates = [estimate.rates()]
    start = time.monotonic()
    result = snakemake(where, real=True)
    took = time.monotonic() - start
    kernels.measured_rates.cache_clear()
    rates.append(estimate.rates())
    assert result.returncode == 0, result.stdout
    folders = ("activations", "sums", "within", "classes", "given", "rotations.zarr")
    stored = sum(
        file.stat().st_size
        for folder in folders
        for file in (where / "results/exact" / folder).rglob("*")
        if file.is_file()
    )
    assert sum(share.stored for share in found) == pytest.approx(stored, rel=0.35)
    # Other work on this machine may slow either side, and a measurement more than the run.
    seconds = [sum(share.seconds(each) for share in found) for each in rates]
    assert max(seconds) / took > 0.2
    assert min(seconds) / took < 5
