"""Figures show the tables' numbers, and no run is too small, too large or too empty for them."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from universal_neurons.errors import UserError
from universal_neurons.report.figures import registry
from universal_neurons.report.figures.draw import draw, save, write_figures
from universal_neurons.report.figures.style import percent_axis
from universal_neurons.report.findings import Findings
from universal_neurons.report.results import read_tables

THRESHOLD = 0.3
MANY_STEPS = [0, 100, 200, 400, 1000, 2000, 4000, 10_000, 20_000, 40_000, 60_000, 80_000]
MANY_STEPS += [100_000, 150_000, 200_000, 250_000, 300_000, 350_000, 380_000, 400_000]
CASES = {
    "demo": {},
    "nothing universal": {"universal": False},
    "one step": {"steps": [500]},
    "one layer, two seeds": {"n_layers": 1, "seeds": ["7", "8"]},
    "24 layers, names as seeds": {
        "n_layers": 24,
        "d_mlp": 40,
        "seeds": [f"alias-gpt2-small-x{i}" for i in range(21, 24)],
        "steps": [0, 1000, 143_000],
        "controls": 3,
    },
    "20 steps, all kinds": {
        "steps": MANY_STEPS,
        "n_layers": 3,
        "d_mlp": 60,
        "kinds": ["mean", "zero", "resample"],
        "controls": 2,
    },
}


def render(figure: Figure) -> None:
    figure.savefig(BytesIO(), format="svg")


def drawn(name: str, tables: dict[str, pd.DataFrame], threshold: float = THRESHOLD) -> Figure:
    return draw(name, Findings(tables, synthetic.excess_above(threshold)))


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for ax in figure.axes for text in ax.texts).replace("\n", " ")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in ("demo", "one step") else pytest.mark.slow)
        for case in CASES
    ],
)
def test_every_figure_can_be_drawn(case):
    tables = synthetic.tables(**CASES[case])
    for name in registry.FIGURES:
        render(drawn(name, tables))


def test_every_figure_is_drawn_from_the_tables_it_names(demo):
    for name, spec in registry.FIGURES.items():
        drawn(name, {table: demo[table] for table in spec.tables})


@pytest.mark.filterwarnings("error")
def test_negative_excess_alone_can_be_drawn(demo):
    universality = demo["universality"].assign(excess_corr=-0.01, universal=False)
    tables = {**demo, "universality": universality}
    for name in ("emergence", "excess_histogram", "threshold_curve"):
        render(drawn(name, tables))


def test_figures_say_when_nothing_is_universal(nothing):
    said = {name: texts(drawn(name, nothing)) for name in registry.FIGURES}
    assert "no neuron has an excess correlation above 0.3 at any step" in said["emergence"]
    assert "nothing can persist" in said["persistence"]
    assert "no universal neurons to ablate" in said["ablation"]
    assert "no universal neurons to ablate" in said["ablation_layers"]
    assert "nothing can persist" in said["survival"]


def test_one_step_has_no_persistence_and_says_so():
    tables = synthetic.tables(steps=[10])
    assert "one step only" in texts(drawn("persistence", tables))


def test_emergence_shows_seeds_and_their_mean(demo):
    universality = demo["universality"]
    figure = drawn("emergence", demo)
    lines = [line.get_ydata() for line in figure.axes[0].lines]
    by_seed = universality.pivot_table(
        index="step", columns="seed", values="universal", aggfunc="mean"
    )
    assert len(lines) == 6
    np.testing.assert_allclose(np.array(lines[:5]), by_seed.to_numpy(dtype=float).T)
    np.testing.assert_allclose(lines[5], by_seed.to_numpy(dtype=float).mean(1))


def test_emergence_shows_every_layer(demo):
    universality = demo["universality"]
    figure = drawn("emergence", demo)
    for layer, line in enumerate(figure.axes[1].lines):
        mine = universality[universality["layer"] == layer]
        expected = mine.groupby("step")["universal"].mean()
        np.testing.assert_allclose(line.get_ydata(), expected)


def test_bands_of_emergence_are_the_intervals_over_tokens_and_seeds(demo):
    fractions = demo["fractions"]
    figure = drawn("emergence", demo)
    bands = [ax.collections for ax in figure.axes[:2]]
    for layer, band in zip((-1, 0, 1), [*bands[0], *bands[1]], strict=True):
        mean = fractions[(fractions["seed"] == "") & (fractions["layer"] == layer)]
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.min() == pytest.approx(mean["low"].min())
        assert heights.max() == pytest.approx(mean["high"].max())


def test_histogram_counts_every_neuron_once(demo):
    ax = drawn("excess_histogram", demo).axes[0]
    stairs = [patch.get_data() for patch in ax.patches]
    assert len(stairs) == len(synthetic.STEPS)
    for data in stairs:
        assert data.values.sum() == pytest.approx(1)


def test_histogram_draws_no_more_steps_than_can_be_told_apart():
    tables = synthetic.tables(steps=MANY_STEPS, d_mlp=20)
    figure = drawn("excess_histogram", tables)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(labels) == 6
    assert labels[0] == "0"
    assert labels[-1] == "400,000"


def test_threshold_curve_is_the_share_above_each_threshold(demo):
    universality = demo["universality"]
    lines = drawn("threshold_curve", demo).axes[0].lines
    for step, line in zip(synthetic.STEPS, lines, strict=False):
        excess = universality.loc[universality["step"] == step, "excess_corr"].to_numpy()
        x, y = line.get_data()
        expected = np.array([(excess > value).mean() for value in x])
        np.testing.assert_allclose(np.nan_to_num(y), expected, atol=1e-12)


def test_curves_of_chance_are_those_of_the_last_step(demo):
    nulls = demo["nulls"].copy()
    nulls.loc[nulls["step"] < 1000, "n"] = 10**6
    lines = drawn("threshold_curve", {**demo, "nulls": nulls}).axes[0].lines
    last = nulls[(nulls["step"] == 1000) & (nulls["null"] == "rotated")]
    x, y = lines[len(synthetic.STEPS)].get_data()
    expected = [last.loc[last["low"] >= low, "n"].sum() / last["n"].sum() for low in x]
    np.testing.assert_allclose(y, expected)


def test_legends_have_the_seeds_in_the_order_of_the_configuration():
    figure = drawn("loss", synthetic.tables(seeds=["23", "7", "11"]))
    (legend,) = [ax.get_legend() for ax in figure.axes]
    assert [text.get_text() for text in legend.get_texts()][:3] == ["23", "7", "11"]


def test_threshold_itself_is_not_above_the_threshold(demo):
    universality = pd.DataFrame({"step": 1, "excess_corr": [0.5, 0.7], "threshold": 0.5})
    tables = {"universality": universality, "nulls": demo["nulls"][:0]}
    x, y = drawn("threshold_curve", tables, 0.5).axes[0].lines[0].get_data()
    assert y[np.searchsorted(x, 0.5)] == 0.5


def test_best_match_map_counts_the_last_step_without_dead_neurons():
    matches = pd.DataFrame(
        {
            "step": [1, 2, 2, 2, 2, 2],
            "layer": [0, 0, 0, 0, 0, 1],
            "best_layer": [1, 0, 0, 1, -1, -1],
        }
    )
    figure = drawn("best_match_layers", {"matches": matches})
    shown = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    np.testing.assert_allclose(shown, [[2 / 3, 1 / 3], [np.nan, np.nan]])


def test_persistence_map_is_the_mean_over_seeds_that_have_universal_neurons():
    row = {"layer": -1, "from_step": 1, "to_step": 2, "n_to": 4, "jaccard": 0.1, "p_value": 0.5}
    row |= {"ceiling": 0.9, "matched_chance": np.nan, "matched_p_value": np.nan}
    table = pd.DataFrame(
        [
            {**row, "seed": "a", "n_from": 4, "n_both": 1, "persistence": 0.25, "chance": 0.1},
            {**row, "seed": "b", "n_from": 2, "n_both": 2, "persistence": 1.0, "chance": 0.2},
            {**row, "seed": "c", "n_from": 0, "n_both": 0, "persistence": np.nan, "chance": 0.9},
        ]
    )
    panels = drawn("persistence", {"persistence": table}).axes[:2]
    observed, chance = (ax.images[0].get_array() for ax in panels)
    np.testing.assert_allclose(observed, [[0.625]])
    np.testing.assert_allclose(chance, [[0.15]])


def test_persistence_is_drawn_beside_neurons_that_changed_as_much_and_its_ceiling(demo):
    figure = drawn("persistence", demo)
    titles = [ax.get_title() for ax in figure.axes[:3]]
    assert titles == ["Observed", "Neurons that changed as much", "Ceiling: measured anew"]
    np.testing.assert_allclose(figure.axes[2].images[0].get_array().compressed(), 0.9)
    by_layer = drawn("persistence_layers", demo)
    lines = [np.asarray(line.get_ydata(), float) for line in by_layer.axes[0].lines]
    assert any(np.nanmin(y) == np.nanmax(y) == 0.9 for y in lines)
    unknown = {
        **demo,
        "persistence": demo["persistence"].assign(ceiling=np.nan, matched_chance=np.nan),
    }
    assert [ax.get_title() for ax in drawn("persistence", unknown).axes[:2]] == [
        *("Observed", "All neurons")
    ]


def test_ablation_panels_show_universal_and_controls(demo):
    table = demo["ablation"]
    figure = drawn("ablation", demo)
    whole = table[(table["layer"] == -1) & (table["n_neurons"] > 0)]
    last = whole[whole["step"] == 1000]
    mean = last.groupby("neuron_set")["delta_loss"].mean()
    shown = [bars.lines[0].get_ydata()[-1] for bars in figure.axes[0].containers]
    np.testing.assert_allclose(shown, [1e3 * mean["control"], 1e3 * mean["universal"]])


def test_step_labels_never_touch():
    tables = synthetic.tables(steps=MANY_STEPS, n_layers=12, d_mlp=30, controls=2)
    for name in ("emergence", "persistence_layers", "ablation_layers", "loss"):
        figure = drawn(name, tables)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for ax in figure.axes:
            if ax.get_label() == "<colorbar>":
                continue
            low, high = ax.get_xlim()
            ticks = [t for t in ax.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
            boxes = [tick.label1.get_window_extent(canvas.get_renderer()) for tick in ticks]
            for left, right in pairwise(sorted(boxes, key=lambda box: box.x0)):
                assert left.x1 < right.x0, f"{name}: {ax.get_title()}"


def test_same_tables_give_the_same_files(demo, tmp_path):
    for folder in ("first", "second"):
        for name in ("emergence", "persistence"):
            save(drawn(name, demo), tmp_path / folder / name)
    first = sorted((tmp_path / "first").iterdir())
    assert [path.name for path in first] == [
        *("emergence.png", "emergence.svg", "persistence.png", "persistence.svg")
    ]
    for path in first:
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
    assert "<dc:date>" not in (tmp_path / "first" / "emergence.svg").read_text()


def test_write_figures_draws_all_from_the_files_of_a_run(tmp_path):
    synthetic.write(synthetic.tables(d_mlp=50, controls=2), tmp_path)
    write_figures(tmp_path, tmp_path / "figures", criterion=synthetic.excess_above(THRESHOLD))
    for name in registry.FIGURES:
        assert (tmp_path / "figures" / f"{name}.svg").stat().st_size > 0
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 0


def test_matches_are_read_for_the_last_step_only(demo, tmp_path):
    synthetic.write(demo, tmp_path)
    assert set(read_tables(tmp_path)["matches"]["step"]) == {1000}


def test_missing_table_is_named(demo, tmp_path):
    synthetic.write({"matches": demo["matches"]}, tmp_path)
    with pytest.raises(UserError, match=r"universality\.parquet is missing"):
        read_tables(tmp_path)


def test_missing_column_is_named(demo, tmp_path):
    synthetic.write({**demo, "models": demo["models"].drop(columns="sha256")}, tmp_path)
    with pytest.raises(UserError, match="no column sha256"):
        read_tables(tmp_path)


def test_unknown_figure_and_empty_table_are_refused(demo):
    with pytest.raises(UserError, match="no figure named 'pie'"):
        drawn("pie", demo)
    with pytest.raises(UserError, match="needs the table models"):
        drawn("loss", {})
    with pytest.raises(UserError, match="models has no rows"):
        drawn("loss", {"models": demo["models"].iloc[:0]})


def test_every_figure_has_a_caption():
    captions = Path(__file__).parents[2] / "workflow" / "report"
    assert {path.stem for path in captions.glob("*.rst")} == {*registry.FIGURES, "workflow"}


def test_token_budget_shows_means_over_seeds_and_reliability_at_all_tokens(demo):
    table = demo["token_budget"]
    left, right = drawn("token_budget", demo).axes
    last = table[(table["step"] == 1000) & (table["part"] != "second half")]
    means = last.groupby("n_tokens")[["jaccard", "rank_corr"]].mean()
    for ax, column in ((left, "jaccard"), (right, "rank_corr")):
        curve = [line for line in ax.lines if len(line.get_xdata()) == len(means)][-1]
        np.testing.assert_allclose(curve.get_xdata(), means.index)
        np.testing.assert_allclose(curve.get_ydata(), means[column])
    diamonds = [line for line in right.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in diamonds] == [10_000] * 5
    np.testing.assert_allclose([line.get_ydata()[0] for line in diamonds], 0.97)


def test_one_shard_has_no_token_budget_and_says_so(demo):
    tables = {"token_budget": demo["token_budget"].iloc[:0]}
    assert "one shard" in texts(drawn("token_budget", tables))


@pytest.mark.parametrize("highest", [0.003, 0.03, 0.05, 0.17, 0.6, 1.0])
def test_labels_of_shares_are_where_their_ticks_are(highest):
    figure = Figure()
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.plot([0, highest])
    percent_axis([ax])
    figure.canvas.draw()
    labels = [float(label.get_text().removesuffix(" %")) for label in ax.get_yticklabels()]
    np.testing.assert_allclose(labels, 100 * ax.get_yticks(), rtol=1e-5)


def test_similarity_shows_the_means_of_the_table(demo):
    table = demo["similarity"]
    figure = drawn("similarity", demo)
    near = table[table["layer"] == table["other_layer"]]
    measures = ("cka", "pwcca", "procrustes", "soft_matching")
    for name, line in zip(measures, figure.axes[0].lines, strict=False):
        np.testing.assert_allclose(line.get_ydata(), near.groupby("step")[name].mean())
    shown = figure.axes[1].images[0].get_array()
    np.testing.assert_allclose(shown, [[0.9, 0.8], [0.8, 0.9]])


@pytest.mark.filterwarnings("error")
def test_similarity_of_nothing_compared_or_of_dead_neurons_says_so(demo):
    none = {**demo, "similarity": demo["similarity"].iloc[:0]}
    assert "layers were not compared" in texts(drawn("similarity", none))
    dead = {**demo, "universality": demo["universality"].assign(regression_r2=np.nan)}
    figure = drawn("similarity", dead)
    assert "every neuron is dead" in texts(figure)
    render(figure)


@pytest.mark.filterwarnings("error")
def test_similarity_of_seeds_of_unlike_depth_can_be_drawn(demo):
    table = demo["similarity"]
    deeper = table["other_seed"] == "4"
    third = table[deeper & (table["other_layer"] == 1)].assign(other_layer=2, soft_matching=np.nan)
    render(drawn("similarity", {**demo, "similarity": pd.concat([table, third])}))
