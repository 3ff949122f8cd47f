"""Courses of neurons: labels by hand, survival against an own product, traces of planted moves."""

import numpy as np
import pandas as pd
import pytest
import torch
from pipeline import gpt2, random_tokens
from scipy.stats import norm

from universal_neurons.errors import UserError
from universal_neurons.models.load import Model
from universal_neurons.persist.trace import trace
from universal_neurons.persist.trajectories import (
    NEXT,
    label,
    survival,
    trajectories,
    with_hysteresis,
)

COURSES = {
    "000": "never",
    "001": "emergent",
    "011": "maintained",
    "111": "maintained",
    "110": "lost",
    "100": "transient",
    "010": "transient",
    "101": "transient",
}


def matrix(courses):
    return np.array([[digit == "1" for digit in course] for course in courses]).T


def test_every_course_has_its_label():
    assert dict(zip(COURSES, label(matrix(COURSES)), strict=True)) == COURSES
    longer = {"1101": "transient", "0110": "lost", "1011": "transient", "0011": "maintained"}
    assert dict(zip(longer, label(matrix(longer)), strict=True)) == longer


def universality(courses, seeds="a"):
    table = pd.DataFrame(
        [
            (seed, 10 * (t + 1), 0, neuron, digit == "1")
            for seed in seeds
            for neuron, course in enumerate(courses)
            for t, digit in enumerate(course)
        ],
        columns=["seed", "step", "layer", "neuron", "universal"],
    )
    excess = 0.4 + 0.2 * table["universal"]
    return table.assign(excess_corr=excess, excess_se=0.01, threshold=0.5)


NOTHING = pd.DataFrame(columns=["seed", "layer", "neuron", "step", *NEXT])


def test_there_is_a_row_per_neuron_and_step_with_its_emergence():
    table = trajectories(universality(COURSES).sample(frac=1, random_state=0), NOTHING)
    assert len(table) == 3 * len(COURSES)
    first = table[table["step"] == 10].set_index("neuron")
    assert first["emergence_step"].tolist() == [-1, 30, 20, 10, 10, 10, 20, 10]
    assert first["label"].tolist() == list(COURSES.values())
    assert (table[["next_layer", "next_neuron"]] == -1).all(axis=None)
    assert table[["next_corr", "self_corr"]].isna().all(axis=None)


def wilson(k, n, z=1.959964):
    centre, half = (k + z**2 / 2) / (n + z**2), z / (n + z**2)
    half *= np.sqrt(k * (n - k) / n + z**2 / 4)
    return centre - half, centre + half


def test_survival_is_a_proportion_with_an_interval_also_where_none_or_all_are_left():
    courses = ["111"] * 5 + ["010"] * 3 + ["011"] * 4
    curves = survival(trajectories(universality(courses), NOTHING)).set_index(
        ["emergence_step", "step"]
    )
    for key, k, n in (((10, 20), 5, 5), ((10, 30), 5, 5), ((20, 30), 4, 7)):
        row = curves.loc[key]
        assert row["survival"] == k / n
        np.testing.assert_allclose(row[["low", "high"]], np.clip(wilson(k, n), 0, 1), atol=1e-6)


def test_a_neuron_stays_universal_until_it_falls_below_the_exit_threshold():
    excess = np.array([[0.6, 0.45, 0.6, 0.45], [0.45, 0.45, 0.3, 0.6], [0.42, 0.6, 0.45, 0.39]]).T
    threshold = np.full(excess.shape, 0.5)
    expected = [[1, 1, 1, 1], [0, 0, 0, 1], [0, 1, 1, 0]]
    np.testing.assert_array_equal(with_hysteresis(excess, threshold, 0.4), np.array(expected).T)
    np.testing.assert_array_equal(with_hysteresis(excess, threshold, 0.5), excess > 0.5)
    threshold[2] = np.inf  # of few tokens at the third step
    assert not with_hysteresis(excess, threshold, 0.4)[2].any()


def test_courses_follow_the_exit_threshold():
    table = universality(["1011", "0100", "0010"]).assign(threshold=0.5)
    noisy = np.array([[0.6, 0.47, 0.6, 0.6], [0.4, 0.6, 0.3, 0.4], [0.4, 0.4, 0.6, 0.45]])
    table = table.assign(excess_corr=noisy.ravel())
    plain = trajectories(table, NOTHING).drop_duplicates("neuron")
    assert plain["label"].tolist() == ["transient", "transient", "transient"]
    kept = trajectories(table, NOTHING, exit_threshold=0.44).drop_duplicates("neuron")
    assert kept["label"].tolist() == ["maintained", "transient", "maintained"]


def measured(rng, n, steps=6, error=0.03):
    """Neurons whose true excess grows past the threshold or does not, and the truth by step."""
    end, pace = rng.normal(0.35, 0.15, n), rng.uniform(0.5, 3, n)
    true = end * (1 - np.exp(-pace * np.arange(1, steps + 1)[:, None] / 2))
    error = error * np.exp(rng.normal(0, 0.5, n))
    measured = true + error * rng.normal(size=true.shape)
    step, neuron = np.indices(true.shape)
    table = pd.DataFrame({"step": 10 * (step.ravel() + 1), "neuron": neuron.ravel()})
    table = table.assign(seed="a", layer=0, threshold=0.5, excess_corr=measured.ravel())
    table["excess_se"] = np.tile(error, steps)
    return table.assign(universal=table["excess_corr"] > 0.5), true


def test_of_the_neurons_universal_with_some_probability_so_many_are():
    table, true = measured(np.random.default_rng(0), 20000)
    found = trajectories(table, NOTHING).sort_values(["step", "neuron"])
    p, truth = found["p_universal"].to_numpy(), true.ravel() > 0.5
    for low in np.arange(0, 1, 0.1):
        rows = (p >= low) & (p < low + 0.1)
        assert truth[rows].mean() == pytest.approx(p[rows].mean(), abs=0.05)
    # As if nothing were known of other neurons, those found high would be believed too readily.
    naive = norm.cdf((table["excess_corr"] - 0.5) / table["excess_se"])
    near = (naive > 0.5) & (naive < 0.9)
    assert naive[near].mean() - truth[near].mean() > 0.05
    assert p.sum() == pytest.approx(truth.sum(), rel=0.02)
    assert table["universal"].sum() > 1.03 * truth.sum()


def test_the_interval_of_the_step_of_emergence_has_the_true_one_in_it():
    table, true = measured(np.random.default_rng(1), 20000)
    found = trajectories(table, NOTHING).drop_duplicates("neuron").sort_values("neuron")
    above = true > 0.5
    truth = np.where(above.any(0), 10 * (above.argmax(0) + 1), 1000)
    low, high = (found[f"emergence_{end}"].replace(-1, 1000) for end in ("low", "high"))
    inside = (low <= truth) & (truth <= high)
    assert inside.mean() > 0.95
    assert inside[truth < 1000].mean() > 0.9
    # It is no interval of all steps: of most neurons it says whether they ever emerge.
    assert ((low == 1000) | (high < 1000)).mean() > 0.75


def test_without_standard_errors_nothing_is_said_of_what_is_true():
    table = universality(["011", "000"]).assign(excess_se=np.nan)
    found = trajectories(table, NOTHING)
    assert found["p_universal"].isna().all()
    assert (found[["emergence_low", "emergence_high"]] == -1).all(axis=None)


def test_survival_is_the_product_of_kaplan_and_meier():
    courses = ["1111"] * 5 + ["1110"] * 2 + ["1100", "1101", "1000"] + ["0111"] * 3 + ["0100"]
    curves = survival(trajectories(universality(courses), NOTHING))
    first = curves[curves["emergence_step"] == 10]
    assert first["step"].tolist() == [10, 20, 30, 40]
    np.testing.assert_allclose(first["survival"], [1, 9 / 10, 7 / 10, 5 / 10])
    second = curves[curves["emergence_step"] == 20]
    np.testing.assert_allclose(second["survival"], [1, 3 / 4, 3 / 4])
    inside = first[first["survival"] < 1]
    assert (inside["low"] < inside["survival"]).all()
    assert (inside["survival"] < inside["high"]).all()
    # Of 14 neurons, 13, 11 and 9 are universal at the later steps.
    shares = matrix(courses)[1:].mean(1)
    np.testing.assert_allclose(first["chance"], [1, *np.cumprod(shares)])


def test_redrawn_neurons_survive_as_chance_says():
    rng = np.random.default_rng(0)
    courses = ["".join("01"[int(x)] for x in rng.random(3) < 0.4) for _ in range(4000)]
    curves = survival(trajectories(universality(courses), NOTHING))
    np.testing.assert_allclose(curves["survival"], curves["chance"], atol=0.05)


def permuted(model, orders):
    """The same model with the neurons of every layer in another order."""
    for block, order in zip(model.blocks, orders, strict=True):
        order = torch.from_numpy(order)
        block.mlp.c_fc.weight[:] = block.mlp.c_fc.weight[:, order]
        block.mlp.c_fc.bias[:] = block.mlp.c_fc.bias[order]
        block.mlp.c_proj.weight[:] = block.mlp.c_proj.weight[order]
    return model


def test_a_trace_finds_where_planted_neurons_have_moved():
    rng = np.random.default_rng(0)
    orders = [rng.permutation(40) for _ in range(2)]
    table = trace(gpt2(1), permuted(gpt2(1), orders), random_tokens(), exclude=(0, 7))
    assert (table["next_layer"] == table["layer"]).all()
    for layer, order in enumerate(orders):
        rows = table[table["layer"] == layer]
        assert rows["next_neuron"].tolist() == np.argsort(order).tolist()
    np.testing.assert_allclose(table["next_corr"], 1, atol=1e-4)
    stayed = table["next_neuron"] == table["neuron"]
    assert (table.loc[~stayed, "self_corr"] < 0.99).all()


def activations(model: Model, tokens, exclude):
    seen = {}
    with model.tap(lambda layer, x: seen.update({layer: x})), torch.no_grad():
        model.module(input_ids=torch.from_numpy(tokens))
    keep = ~np.isin(tokens, exclude).ravel()
    return [seen[i].flatten(0, 1).double().numpy()[keep] for i in range(len(model.d_mlp))]


def test_traces_are_pearson_correlations_over_scored_tokens():
    one, two, tokens = gpt2(1), gpt2(2), random_tokens(n_sequences=300)
    table = trace(one, two, tokens, exclude=(0, 7))
    a, b = (np.hstack(activations(m, tokens, (0, 7))) for m in (one, two))
    full = np.corrcoef(a.T, b.T)[:80, 80:]
    np.testing.assert_allclose(table["next_corr"], full.max(1), atol=1e-5)
    np.testing.assert_allclose(table["self_corr"], full.diagonal(), atol=1e-5)
    assert (40 * table["next_layer"] + table["next_neuron"]).tolist() == full.argmax(1).tolist()


def test_a_sample_without_scored_tokens_is_refused():
    with pytest.raises(UserError, match="persistence.trace_tokens: no token"):
        trace(gpt2(1), gpt2(2), np.full((2, 8), 7), exclude=(7,))
