"""Two runs side by side: planted differences come out as planted, in the common part only."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from universal_neurons.errors import UserError
from universal_neurons.report.comparison import Comparison, compare
from universal_neurons.report.figures import comparison as drawing
from universal_neurons.report.figures.draw import save

LAYERS, D_MLP = 2, 50


def run(where, seeds=("a", "b", "c"), steps=(1, 2), threshold=0.5, d_mlp=D_MLP, weights="w"):
    """A run's tables, the same for a seed, step and neuron in every run but for the threshold."""
    neurons = [(layer, neuron) for layer in range(LAYERS) for neuron in range(d_mlp)]
    scores, matches = [], []
    for step in steps:
        for seed in seeds:
            excess = np.random.default_rng([step, ord(seed)]).uniform(-0.1, 1, len(neurons))
            table = pd.DataFrame(neurons, columns=["layer", "neuron"])
            scores.append(
                table.assign(step=step, seed=seed, excess_corr=excess, universal=excess > threshold)
            )
        for seed, other in permutations(seeds, 2):
            best = {"best_layer": table["layer"], "best_neuron": table["neuron"]}
            matches.append(table.assign(step=step, seed=seed, other_seed=other, **best))
    where.mkdir()
    categories = pd.CategoricalDtype(list(seeds), ordered=True)
    scores = pd.concat(scores).astype({"seed": categories})
    tables = {"universality": scores, "matches": pd.concat(matches)}
    models = [(seed, step, f"{weights}{seed}{step}") for seed in seeds for step in steps]
    tables["models"] = pd.DataFrame(models, columns=["seed", "step", "sha256"])
    for name, table in tables.items():
        table.to_parquet(where / f"{name}.parquet")
    return where


def change(results, name, changed):
    """Replace a table of a run by what a function makes of it."""
    path = results / f"{name}.parquet"
    changed(pd.read_parquet(path)).to_parquet(path)


def row(found: Comparison, step=2, layer=-1):
    table = found.table
    (mine,) = table[(table["step"] == step) & (table["layer"] == layer)].to_dict("records")
    return mine


def test_a_run_agrees_with_itself_in_everything(tmp_path):
    results = run(tmp_path / "a")
    table = compare(results, results).table
    assert list(zip(table["step"], table["layer"], strict=True)) == [
        (step, layer) for step in (1, 2) for layer in (-1, 0, 1)
    ]
    ones = table[["corr", "jaccard", "a_in_b", "b_in_a", "same_partner"]]
    np.testing.assert_allclose(ones, 1, rtol=1e-12)
    assert (table[["mean_difference", "max_difference", "shift"]] == 0).all(axis=None)
    assert table["n_neurons"].tolist() == 2 * [3 * LAYERS * D_MLP, 3 * D_MLP, 3 * D_MLP]


def test_planted_differences_of_the_scores_come_out_by_step_and_layer(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b")

    def shifted(table):
        there = (table["step"] == 2) & (table["layer"] == 1)
        sign = np.where(table["neuron"] % 2 == 0, 3, -1)
        return table.assign(excess_corr=table["excess_corr"] + 0.01 * sign * there)

    change(b, "universality", shifted)
    found = compare(a, b)
    for same in (row(found, 1), row(found, 2, 0)):
        assert (same["corr"], same["max_difference"]) == pytest.approx((1, 0))
    moved, whole = row(found, 2, 1), row(found)
    assert moved["mean_difference"] == pytest.approx(0.02)
    assert moved["max_difference"] == pytest.approx(0.03)
    assert moved["shift"] == pytest.approx(0.01)
    assert whole["shift"] == pytest.approx(0.01 / LAYERS)
    scores = [pd.read_parquet(r / "universality.parquet").query("step == 2") for r in (a, b)]
    expected = np.corrcoef(*(table["excess_corr"] for table in scores))[0, 1]
    assert whole["corr"] == pytest.approx(expected)


def test_sets_at_two_thresholds_are_one_within_the_other(tmp_path):
    low, high = run(tmp_path / "low", threshold=0.4), run(tmp_path / "high", threshold=0.7)
    excess = pd.read_parquet(low / "universality.parquet").query("step == 2")["excess_corr"]
    n_low, n_high = int((excess > 0.4).sum()), int((excess > 0.7).sum())
    found = row(compare(low, high))
    assert (found["n_a"], found["n_b"], found["n_both"]) == (n_low, n_high, n_high)
    assert found["a_in_b"] == found["jaccard"] == n_high / n_low
    assert found["b_in_a"] == 1
    assert (found["corr"], found["same_partner"]) == pytest.approx((1, 1))


def test_a_partner_is_the_same_if_layer_and_neuron_are(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b")

    def moved(table):
        mine = (table["step"] == 2) & (table["layer"] == 0) & (table["neuron"] < 10)
        later = table["best_layer"].where(~(mine & (table["neuron"] < 5)), 1)
        other = table["best_neuron"].where(~(mine & (table["neuron"] >= 5)), 49)
        return table.assign(best_layer=later, best_neuron=other)

    change(b, "matches", moved)
    found = compare(a, b)
    assert row(found, 2, 0)["same_partner"] == pytest.approx(1 - 10 / D_MLP)
    assert row(found, 2)["same_partner"] == pytest.approx(1 - 10 / D_MLP / LAYERS)
    assert row(found, 1)["same_partner"] == 1


def test_runs_that_overlap_in_part_are_compared_there_and_it_is_said(tmp_path):
    a = run(tmp_path / "a", seeds="abc", steps=(1, 2))
    b = run(tmp_path / "b", seeds="dcb", steps=(2, 3))
    found = compare(a, b)
    assert set(found.table["step"]) == {2}
    assert row(found)["n_neurons"] == 2 * LAYERS * D_MLP
    assert row(found)["corr"] == pytest.approx(1)
    assert set(found.last["seed"]) == {"b", "c"}
    said = "\n".join(found.notes)
    assert f"a is {a}, b is {b}: seeds b, c at steps 2." in said
    assert f"Left out, only in {a}: seeds a and steps 1." in said
    assert f"Left out, only in {b}: seeds d and steps 3." in said
    assert "Excess is a mean over a run's other seeds, which are not the same in both." in said


def test_seeds_are_listed_in_the_order_of_the_first_run_whatever_that_of_the_second(tmp_path):
    a, b = run(tmp_path / "a", seeds="bca"), run(tmp_path / "b", seeds="abc")
    said = "\n".join(compare(a, b).notes)
    assert "seeds b, c, a at steps" in said
    assert "mean over a run's other seeds" not in said


def test_other_weights_under_the_same_name_are_said(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b", weights="x", steps=(2,))
    assert compare(a, b).notes[-1] == (
        "Of other weights in the two runs: seed a at step 2, seed b at step 2, seed c at step 2."
    )
    assert len(compare(a, a).notes) == 1


@pytest.mark.parametrize(
    ("what", "other"), [("seed", {"seeds": "xyz"}), ("step", {"steps": (7, 9)})]
)
def test_runs_with_nothing_in_common_are_refused_with_what_they_have(tmp_path, what, other):
    a, b = run(tmp_path / "a"), run(tmp_path / "b", **other)
    with pytest.raises(UserError, match=rf"no {what} in common: .*a, b, c at steps 1, 2; .*/b has"):
        compare(a, b)


def test_models_of_other_sizes_are_refused(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b", d_mlp=D_MLP + 1)
    with pytest.raises(UserError, match="at step 1 a seed has other neurons .* different models"):
        compare(a, b)


def test_a_run_without_tables_is_named(tmp_path):
    with pytest.raises(UserError, match=r"b/universality.parquet is missing: run the workflow"):
        compare(run(tmp_path / "a"), tmp_path / "b")


def drawn(found: Comparison) -> tuple[Figure, np.ndarray, np.ndarray]:
    """The figure, the excess of both runs in its scatter, and its measures by layer."""
    figure = drawing.comparison(found)
    scatter, by_layer, _ = figure.axes
    sets = [line for line in scatter.lines if not line.get_label().startswith("_")]
    points = np.concatenate([np.array(line.get_xydata()) for line in sets])
    return figure, points, np.array([line.get_ydata() for line in by_layer.lines])


def test_the_figure_shows_every_neuron_and_the_agreement_by_layer(tmp_path):
    low, high = run(tmp_path / "low", threshold=0.4), run(tmp_path / "high", threshold=0.7)
    found = compare(low, high)
    figure, points, measures = drawn(found)
    expected = found.last[["excess_corr_a", "excess_corr_b"]].to_numpy()
    assert sorted(map(tuple, points)) == sorted(map(tuple, expected))
    rows = found.table.query("step == 2 and layer >= 0")
    np.testing.assert_array_equal(measures, rows[list(drawing.MEASURES)].to_numpy().T)
    save(figure, tmp_path / "figure")


def test_a_large_run_is_drawn_by_a_sample_and_one_without_universal_neurons_too(
    tmp_path, monkeypatch
):
    results = run(tmp_path / "none", threshold=2, steps=(1,))
    monkeypatch.setattr(drawing, "MOST_DOTS", 30)
    figure, points, _ = drawn(compare(results, results))
    assert len(points) == 30
    assert np.isnan(compare(results, results).table["jaccard"]).all()
    save(figure, tmp_path / "figure")


def test_the_screened_mode_agrees_with_the_exact_one(local, screened):
    where, _ = local
    table = compare(where / "results/exact", screened).table
    assert (table["corr"] > 0.999).all()
    assert (table["same_partner"] == 1).all()
