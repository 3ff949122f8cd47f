"""The estimate against what runs really planned, stored and took."""

from __future__ import annotations

import time

import numpy as np
import pytest
from pipeline import gpt2
from tiny import configure, planned, snakemake

from universal_neurons.commands import estimate
from universal_neurons.plan.config import resolve
from universal_neurons.plan.cost import planned as costs
from universal_neurons.plan.grid import Grid

MODES = {
    "exact": {},
    "screened": {"correlate": {"mode": "screened"}},
    "direct": {"capture": {"store": False}},
}


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A folder with three models of 3 x 400 neurons at two steps, and tokens."""
    where = tmp_path_factory.mktemp("estimate")
    for seed in range(3):
        for step in (1, 2):
            model = gpt2(10 * seed + step, d_mlp=400, layers=3)
            model.module.save_pretrained(where / f"models/{seed}/{step}")
    np.save(where / "tokens.npy", np.random.default_rng(0).integers(0, 61, (1300, 32)))
    return where


def configured(where, mode, **sections):
    config = {
        "run": mode,
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
            "shards": 2,
            "exclude_token_ids": [],
        },
        **MODES[mode],
        **sections,
    }
    configure(where, config)
    return Grid.of(resolve(config))


@pytest.mark.parametrize("mode", MODES)
def test_the_number_of_jobs_is_that_of_the_plan(mode, where):
    found = {rule: cost.jobs for rule, cost in costs(configured(where, mode)).items()}
    jobs = planned(where)
    for rule in ("capture", "direct"):
        jobs[rule] = sum(jobs.pop(name, 0) for name in (f"{rule}_first", rule, f"{rule}_more"))
    for rule, count in jobs.items():
        if rule in found:
            assert found[rule] == count, rule
    # What the estimate leaves out are single jobs and joins, two per step at most.
    others = sum(count for rule, count in jobs.items() if rule not in found)
    assert others <= 11 + 2 * 2
    assert sum(found.values()) + others == sum(jobs.values())


@pytest.mark.slow
def test_bytes_and_time_are_those_of_a_run(where):
    grid = configured(where, "exact", ablation={"controls": 20})
    found = costs(grid).values()
    rates = estimate.rates()
    hours = sum(cost.hours(rates) for cost in found)
    start = time.monotonic()
    result = snakemake(where, real=True)
    took = time.monotonic() - start
    assert result.returncode == 0, result.stdout
    folders = ("activations", "sums", "within", "rotations.zarr")
    stored = sum(
        file.stat().st_size
        for folder in folders
        for file in (where / "results/exact" / folder).rglob("*")
        if file.is_file()
    )
    assert sum(cost.stored for cost in found) == pytest.approx(stored, rel=0.35)
    # Other work on this machine may slow either side.
    assert 0.25 < 3600 * hours / took < 4
