"""One cost model: what a job asks for and what the whole grid takes come from the same formulas."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import Counter

import pytest
from planning import GPT2_SMALL, RULES, SMALL, grid, rule_names

from universal_neurons.ablate import ablation, precision
from universal_neurons.activations import products
from universal_neurons.capture import direct
from universal_neurons.correlate import (
    class_scores,
    exact_sums,
    given,
    permuted,
    refine,
    similar_pair,
)
from universal_neurons.describe import chosen, collect, examples, features, windows
from universal_neurons.plan import cost, sizes
from universal_neurons.plan.counts import counts
from universal_neurons.plan.ready import classes_note
from universal_neurons.score import influence, untrained

# What the costs copy, as importing the modules would cost the Snakefile seconds.
COPIES = {
    "BLOCK_BYTES": products.BLOCK_BYTES,
    "DIRECT_TOKENS": direct.BLOCK_TOKENS["cpu"],
    "INFLUENCE_TOKENS": influence.BLOCK_TOKENS,
    "INFLUENCE_VALUES": influence.BLOCK_VALUES,
    "INFLUENCE_GROUPS": influence.GROUPS,
    "ABLATION_TOKENS": inspect.signature(ablation.ablate).parameters["batch_tokens"].default,
    "ABLATION_WEIGHTS": precision.LEAST_WEIGHTS,
    "UNTRAINED_TOKENS": untrained.TOKENS,
    "PERMUTED_SHARE": permuted.SAMPLE,
    "WIDE_LAYER": similar_pair.WIDE,
    "GIVEN_DRAWS": given.DRAWS,
    "GIVEN_FREQUENT": class_scores.FREQUENT,
    "MOST_TOKENS": features.MOST_TOKENS,
    "REFINE_TOKENS": exact_sums.BLOCK_TOKENS,
    "REFINE_BYTES": refine.EXACT_BYTES,
    "CONTEXTS": collect.TOP + len(collect.BANDS) * collect.OF_BAND + collect.RANDOM,
    "WINDOW": windows.BEFORE + 1 + windows.AFTER,
    "SAMPLE_TOKENS": examples.SAMPLE_TOKENS,
    "OTHERS": chosen.EFFECTS + chosen.OTHERS,
}
LARGE = {"tokens": 5_000_000, "heldout_tokens": 50_000, "shards": 8}
GRIDS = {
    "small": grid(SMALL),
    "GPT-2 Small": grid(GPT2_SMALL, **LARGE),
    "uneven shards": grid(SMALL, tokens=1000, shards=3),
    "direct": grid(GPT2_SMALL, sections={"capture": {"store": False}}, **LARGE),
    "screened": grid(GPT2_SMALL, sections={"correlate": {"mode": "screened"}}, **LARGE),
    "float32": grid(GPT2_SMALL, sections={"capture": {"encoding": "float32"}}, **LARGE),
}


@pytest.mark.parametrize("name", COPIES)
def test_the_costs_know_the_numbers_of_the_code(name):
    assert getattr(sizes, name) == COPIES[name]


def test_a_plan_is_made_without_the_libraries_that_take_seconds():
    slow = ["torch", "transformers", "pandas", "scipy", "numba", "matplotlib", "datasets"]
    code = (
        "import sys, universal_neurons.plan.ready, universal_neurons.plan.shares\n"
        f"sys.exit(set({slow}) & set(sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", GRIDS)
def test_the_largest_jobs_together_do_at_least_the_work_of_the_grid(name):
    jobs = Counter()
    for rule, number in counts(GRIDS[name]).items():
        jobs[cost.FORMULA.get(rule, rule)] += number
    for rule in set(jobs) & set(cost.RULES):
        found = cost.cost(GRIDS[name], rule)
        for kind, operations in found.whole.items():
            assert found.job[kind] <= operations * (1 + 1e-9), rule
            assert jobs[rule] * found.job[kind] >= operations * (1 - 1e-9), rule


def test_every_rule_has_a_cost():
    assert rule_names(RULES) - set(cost.FORMULA) == {*cost.RULES, *cost.FIXED}
    assert not set(cost.RULES) & set(cost.FIXED)


def test_jobs_of_gpt2_small_ask_for_threads_and_hours_those_of_a_small_model_do_not():
    small, large = (cost.cost(GRIDS[name], "correlate") for name in ("small", "GPT-2 Small"))
    assert (small.threads, small.minutes) == (1, 10)
    assert large.threads == cost.THREADS
    assert large.minutes == 10 + int(12 * 2 * 625_000 * 3072 * 36864 / 50e9 / 60)
    # Sums of three layers with a model, two buffers of codes of each and of the other's, a product.
    sums, product = 3 * 8 * 3072 * 36864, 8 * 3072**2
    assert large.mem_mb == 1500 + int((sums + 8 * sizes.BLOCK_BYTES + product) / 1e6)


def test_sums_by_token_are_made_where_memory_holds_them_and_it_is_said_where_not():
    direct = {"capture": {"store": False}}
    assert counts(grid(SMALL, sections=direct))["given"] == counts(GRIDS["small"])["given"] > 0
    assert classes_note(GRIDS["GPT-2 Small"]) == classes_note(grid(SMALL, sections=direct)) == []
    assert counts(GRIDS["direct"])["given"] == 0
    [note] = classes_note(GRIDS["direct"])
    assert "more than 4 GB" in note


def test_a_rotation_costs_the_same_for_a_job_and_for_the_grid():
    found = cost.cost(GRIDS["GPT-2 Small"], "rotations")
    assert found.job == found.whole == {"float32": 20 * 5 * 12 * 3072**3}
