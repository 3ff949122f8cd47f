"""Which neurons have their contexts shown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from universal_neurons.describe.chosen import EFFECTS, OTHERS, Found, choose

# Neurons of two layers, and those that are chosen for a reason.
D_MLP = [200, 300]
EARLY, LATE, GROUP = (0, 5), (1, 7), (1, 299)


@pytest.fixture
def found(tmp_path):
    """Tables of two seeds in which some neurons of seed a are special."""
    places = [(layer, i) for layer, d_mlp in enumerate(D_MLP) for i in range(d_mlp)]
    rng = np.random.default_rng(0)
    for step, special in ((1, EARLY), (2, LATE)):
        rows = pd.DataFrame(places, columns=["layer", "neuron"])
        rows["universal"] = [place == special for place in places]
        rows["excess_corr"] = rng.random(len(rows))
        both = [rows.assign(seed="a"), rows.assign(seed="b", universal=True, excess_corr=2)]
        pd.concat(both).to_parquet(tmp_path / f"universality{step}.parquet")
        groups = pd.DataFrame({"seed": ["a", "b"], "layer": [1, 0], "neuron": [299, 0]})
        groups.iloc[: 2 * (step == 1)].to_parquet(tmp_path / f"groups{step}.parquet")
    rows = rows.assign(seed="a", attributed_delta_loss=rng.normal(size=len(rows)))
    rows.to_parquet(tmp_path / "effects.parquet")
    steps = [
        [tmp_path / f"{name}{step}.parquet" for step in (1, 2)]
        for name in ("universality", "groups")
    ]
    return Found(*steps, [tmp_path / "effects.parquet"]), rows


def names(chosen):
    assert all((np.diff(part) > 0).all() for part in chosen)
    return {(layer, i) for layer, part in enumerate(chosen) for i in part.tolist()}


def chosen(found, which, seed=0):
    return names(choose(found, "a", D_MLP, which, np.random.default_rng(seed)))


def test_universal_ones_members_of_groups_largest_effects_and_others_are_chosen(found):
    tables, rows = found
    largest = rows.iloc[rows["attributed_delta_loss"].abs().argsort()[::-1][:EFFECTS]]
    special = {EARLY, LATE, GROUP, *zip(largest["layer"], largest["neuron"], strict=True)}
    one, other = (chosen(tables, "universal", seed) for seed in (0, 1))
    assert special <= one
    assert len(one) == len(special) + OTHERS
    assert one & other < one
    assert one == chosen(tables, "universal", 0)


def test_without_effects_and_universal_ones_there_are_the_others(found):
    tables = Found(found[0].universality[:1], found[0].groups[1:], [])
    assert len(chosen(tables, "universal")) == 1 + OTHERS


def test_a_number_is_of_those_with_the_largest_excess_at_the_last_step(found):
    tables, rows = found
    best = rows.nlargest(30, "excess_corr")
    made = chosen(tables, 30)
    assert {*zip(best["layer"], best["neuron"], strict=True)} <= made
    assert len(made) == 30 + OTHERS


@pytest.mark.parametrize("which", ["all", 500, 480, 10**6])
def test_all_and_a_number_beyond_all_are_all(found, which):
    assert len(chosen(found[0], which)) == 500
