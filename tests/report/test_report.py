"""The report's sentences follow from the tables, and the file stands on its own."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import synthetic

from universal_neurons.errors import UserError
from universal_neurons.report import contrasts, lasting, summaries
from universal_neurons.report.figures.draw import draw as figure
from universal_neurons.report.figures.draw import save
from universal_neurons.report.figures.registry import FIGURES
from universal_neurons.report.findings import Findings
from universal_neurons.report.gallery import Reading, Shown, Token
from universal_neurons.report.headlines import headlines
from universal_neurons.report.page import More, write_report
from universal_neurons.report.questions import OPENING_FIGURE, QUESTIONS, belongs
from universal_neurons.report.results import read_benchmarks
from universal_neurons.report.tables import short_tables
from universal_neurons.report.tiles import tiles
from universal_neurons.report.trust import trust, warnings
from universal_neurons.report.words import extremes, percent, share_range
from universal_neurons.score.criterion import Criterion
from universal_neurons.score.nulls import BIN_WIDTH, LEADING, histograms

THRESHOLD = 0.3
CAPTIONS = Path(__file__).parents[2] / "workflow" / "report"
CONFIG = {
    "run": "demo <script>",
    "corpus": {"tokens": 10_000, "heldout_tokens": 5000, "context_length": 64},
    "capture": {"encoding": "int8"},
    "baseline": {"draws": 5},
    "universality": {
        "criterion": "excess",
        "excess_threshold": THRESHOLD,
        "false_discovery_rate": 0.05,
    },
}


SCORED = 9000
ORIGIN = {"config_hash": "f00 & <b>", "scored tokens": SCORED}


@pytest.fixture(scope="module")
def drawn(demo, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    found = findings(demo)
    for name in FIGURES:
        save(figure(name, found), folder / name)
    return folder


def findings(tables, threshold: float = THRESHOLD) -> Findings:
    return Findings(tables, synthetic.excess_above(threshold))


def page_of(tables, drawn, out, **more) -> str:
    shown = {key: more.pop(key) for key in ("benchmarks", "subsets", "gallery") if key in more}
    options = {"config": CONFIG, "provenance": ORIGIN, "more": More(**shown), **more}
    write_report(tables, drawn, CAPTIONS, out=out / "report.html", **options)
    return (out / "report.html").read_text()


def headline(tables, topic: str, threshold: float = THRESHOLD) -> str:
    found = {h.topic: h.text for h in headlines(findings(tables, threshold), CONFIG)}
    return found[topic].replace("\u00a0", " ")


def universality(counts: dict[tuple[int, str], int], n: int = 100) -> pd.DataFrame:
    """`n` neurons of one layer per (step, seed), so many of them universal (excess 0.4)."""
    parts = []
    for (step, seed), count in counts.items():
        universal = np.arange(n) < count
        parts.append(
            pd.DataFrame(
                {
                    "step": step,
                    "seed": seed,
                    "layer": 0,
                    "neuron": np.arange(n),
                    "excess_corr": np.where(universal, 0.4, 0.1),
                    "threshold": THRESHOLD,
                    "universal": universal,
                    "q_value": np.where(universal, 0.01, 0.6),
                    "assigned_universal": universal,
                    "n_matched": 0,
                    "n_mutual": 0,
                    "in_group": False,
                    "leave_one_out": np.nan,
                    "leave_one_out_cases": 0,
                    "n_mutual_permuted": np.nan,
                    "max_corr": np.where(universal, 0.6, 0.3),
                    "regression_r2": np.nan,
                    **{
                        name: np.nan
                        for kind in ("token", "previous_token", "position")
                        for name in (f"{kind}_r2", f"excess_given_{kind}")
                    },
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def overlap(seed: str, n_from: int, n_both: int, p: float, chance: float = 0.05) -> dict:
    return {
        "seed": seed,
        "layer": -1,
        "from_step": 10,
        "to_step": 2000,
        "n_from": n_from,
        "n_to": 10,
        "n_both": n_both,
        "persistence": n_both / n_from if n_from else np.nan,
        "jaccard": np.nan,
        "chance": chance,
        "p_value": p,
        "odds_ratio": 5.0,
        "q_value": np.nan,
        "ceiling": 0.9 if n_from else np.nan,
        "matched_chance": 2 * chance if n_from else np.nan,
        "matched_p_value": p,
    }


def ablation(
    universal: dict[str, float],
    controls: list[float],
    *,
    se: float = 1e-4,
    n: int = 4,
    comparable: bool = True,
    energy_ratio: float = 1.0,
    layer: int = -1,
) -> list:
    """Rows of universal sets, by seed, and of controls that cost the same in all."""
    rows = []
    for seed, delta in universal.items():
        row = {"step": 7, "seed": seed, "layer": layer, "kind": "mean", "n_neurons": n}
        row |= {"delta_loss_se": se, "energy": 2.0, "comparable": comparable}
        mean = np.mean(controls)
        own = row | {"neuron_set": "universal", "draw": -1, "delta_loss": delta}
        own |= {"energy": 2 * energy_ratio, "energy_ratio": energy_ratio}
        own |= {"overlap": 1.0 if comparable else 0.3}
        own |= {"difference": delta - mean, "difference_se": se}
        own |= {"adjusted_difference": delta - energy_ratio * mean, "adjusted_difference_se": se}
        rows.append(own)
        for draw, cost in enumerate(controls):
            rows.append(row | {"neuron_set": "control", "draw": draw, "delta_loss": cost})
    scaled = {"delta_loss_later": 0.9, "direct_delta_loss": 0.4}
    return [{k: x * row["delta_loss"] for k, x in scaled.items()} | row for row in rows]


def test_neurons_better_than_the_nulls_are_counted_beside_those_above_the_papers_threshold(demo):
    table = universality({(50, "a"): 0, (1000, "a"): 11, (1000, "b"): 14})
    text = headline({**demo, "universality": table}, "Against the nulls")
    assert "25 of 200 neurons (12.5 %) match better than random rotations" in text
    assert "untrained models and noise" in text
    assert "Nothing else is ruled out" in text
    assert "0 of 200 exceed the papers' 0.5" in text
    chance = headline({**demo, "universality": table.assign(q_value=0.9)}, "Against the nulls")
    assert "none of 200 neurons matches better than random rotations" in chance
    unknown = headline({**demo, "universality": table.assign(q_value=np.nan)}, "Against the nulls")
    assert "No p-values" in unknown


def test_neurons_beyond_random_directions_are_counted_whatever_the_other_nulls(demo):
    table = universality({(50, "a"): 0, (1000, "a"): 11, (1000, "b"): 14})
    values = pd.DataFrame({"excess": [0.1, 0.2]})
    named = pd.concat([demo["nulls"], histograms({LEADING: values}, 1000)])
    tables = {**demo, "nulls": named, "universality": table}
    text = headline(tables, "Against the nulls")
    assert (
        "25 of 200 neurons (12.5 %) are beyond random (whitened) directions in the other seeds' "
        "real MLP inputs, at a false discovery rate of 5 % (q < 0.05). Nothing else is ruled out: "
        "neurons that read one token well match so too, and other draws or another choice of "
        "directions give another number." in text
    )
    assert "rotations" not in text
    none = headline({**tables, "universality": table.assign(q_value=0.9)}, "Against the nulls")
    assert "none of 200 neurons is beyond random (whitened) directions in the other" in none
    by_q = Findings({**demo, "nulls": named}, Criterion("q_value", 0.5, 0.05))
    said = " ".join(trust(by_q, CONFIG, SCORED))
    assert "matched better than random (whitened) directions in the other seeds' real" in said
    by_excess = " ".join(trust(findings({**demo, "nulls": named}), CONFIG, SCORED))
    assert "the threshold; this depends on the random directions drawn." in by_excess
    without = " ".join(trust(findings(demo), CONFIG, SCORED))
    assert "the threshold; this depends on the draws of the nulls." in without


def test_the_closest_groups_are_listed_with_their_members(demo):
    tables = {table.title: table for table in short_tables(findings(demo))}
    table = tables["Groups: one neuron of each seed"]
    assert "all groups" in table.note
    assert len(table.rows) == 8
    assert table.rows[0]["mean correlation"] == "0.90"
    assert [table.rows[5][f"seed {i}"] for i in range(5)] == ["L1N1"] * 5
    many = synthetic.tables(n_layers=7, d_mlp=20)
    tables = {table.title: table for table in short_tables(findings(many))}
    table = tables["Groups: one neuron of each seed"]
    assert "the 20 closest of 28 groups" in table.note
    none = {**demo, "groups": demo["groups"][:0]}
    assert "Groups: one neuron of each seed" not in {t.title for t in short_tables(findings(none))}


def test_the_share_by_chance_stands_beside_every_threshold(demo):
    rows = [(1000, "rotated", low, 1) for low in (0.08, 0.1, 0.38, 0.62)]
    nulls = pd.DataFrame(rows, columns=["step", "null", "low", "n"])
    table = summaries.chance_curve(demo["universality"], nulls).set_index("threshold")
    assert table["rotated"].tolist() == [0.75, 0.5, 0.5, 0.25, 0.25, 0.25, 0, 0, 0]
    excess = demo["universality"].query("step == 1000")["excess_corr"]
    assert table.loc[0.2, "found"] == (excess > 0.2).mean()


def test_emergence_is_told_with_pooled_and_single_shares(demo):
    table = universality({(10, "a"): 0, (10, "b"): 0, (2000, "a"): 11, (2000, "b"): 14})
    text = headline({**demo, "universality": table}, "Universal neurons")
    assert (
        "At the last step (2,000), 12.5 % of neurons (25 of 200, pooled over 2 seeds; 11.0 % to "
        "14.0 % in single seeds) have an excess correlation above 0.3." in text
    )
    assert "At the first step (10) it was 0 % (0 of 200)." in text
    assert "highest at" not in text
    assert "the mean excess correlation is 0.138 at the last step and was 0.100" in text


def test_a_peak_before_the_last_step_is_told(demo):
    table = universality({(1, "a"): 0, (2, "a"): 9, (3, "a"): 4})
    text = headline({**demo, "universality": table}, "Universal neurons")
    assert "The share was highest at step 2: 9.0 % (9 of 100)." in text


def budget(jaccard: float, reliability: float) -> pd.DataFrame:
    """The token budget of two seeds and four shards of 250 tokens."""
    row = {"step": 7, "n_neurons": 50, "n_universal": 6, "rank_corr": 0.95}
    rows = []
    for seed, shift in (("a", 0.01), ("b", -0.01)):
        row |= {"seed": seed, "jaccard": jaccard + shift}
        rows += [row | {"part": "first", "n_shards": n, "n_tokens": 250 * n} for n in (1, 2)]
        rows[-2]["jaccard"] = 0.1
        rows += [row | {"part": "all", "n_shards": 4, "n_tokens": 1000, "jaccard": 1}]
        rows += [row | {"part": "second half", "n_shards": 2, "n_tokens": 500}]
        rows[-1]["reliability"] = reliability + shift
    return pd.DataFrame(rows)


def test_small_token_noise_is_told_with_the_numbers_that_say_so_and_what_it_leaves_out(demo):
    text = headline({**demo, "token_budget": budget(0.93, 0.98)}, "Token noise")
    assert (
        "Of 100 sampled neurons (of 2 seeds) at the last step, 12 are universal with all 1,000 "
        "tokens. With the first 500 of them the universal set has a Jaccard index of 0.93 with "
        "that of all, excess correlations have a rank correlation of 0.95, and the agreement of "
        "two halves gives all tokens a reliability of 0.98: token noise is small. Other seeds or "
        "rotations, which all parts share, could change it all the same." in text
    )
    assert "enough" not in text


@pytest.mark.parametrize(("jaccard", "reliability"), [(0.8, 0.98), (0.93, 0.8)])
def test_token_noise_that_is_not_small_is_told_so(demo, jaccard, reliability):
    text = headline({**demo, "token_budget": budget(jaccard, reliability)}, "Token noise")
    assert "token noise is not small (both should be 0.9 or more), more tokens could" in text


def test_without_a_reliability_nothing_is_said_of_token_noise(demo):
    text = headline({**demo, "token_budget": budget(0.93, np.nan)}, "Token noise")
    assert "whether token noise is small cannot be said" in text
    assert "is not small" not in text
    assert "–" not in text


def test_errors_and_p_values_lack_more_sequences_where_activations_are_stored(demo):
    unknown = {
        **demo,
        "fractions": demo["fractions"].assign(se=np.nan),
        "universality": demo["universality"].assign(q_value=np.nan),
    }
    for store, needed, other in (
        (True, "more sequences (corpus.tokens)", "capture.store"),
        (False, "activations (capture.store)", "corpus.tokens"),
    ):
        config = {**CONFIG, "capture": {"store": store}}
        said = {h.topic: h.text for h in headlines(findings(unknown), config)}
        for text in (said["Universal neurons"], said["Against the nulls"]):
            assert needed in text
            assert other not in text


def test_two_seeds_have_no_interval_for_the_choice_of_seeds_and_it_is_told_so(demo):
    fractions = demo["fractions"]
    fractions = fractions[fractions["seed"].isin(["", "0", "1"])]
    unknown = fractions.assign(se=fractions["se"].where(fractions["seed"] != ""))
    text = headline({**demo, "fractions": unknown}, "Universal neurons")
    assert "no interval for the choice of seeds: that takes 3 seeds or more" in text
    assert "sequences" not in text


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([1, 1], "all have the same share (100 %)"),
        ([0.5, 0.1, 0.2], "layer 0 has the largest share (50.0 %), layer 1 the smallest (10.0 %)"),
        ([0.5, 0, 0], "layer 0 has the largest share (50.0 %), layers 1 and 2 the smallest (0 %)"),
        ([0.5, 0.5, 0], "layers 0 and 1 have the largest share (50.0 %), layer 2 the smallest"),
    ],
)
def test_equal_layers_are_not_called_largest_and_smallest(shares, said):
    assert said in extremes(pd.Series(shares), "share").replace("\u00a0", " ")


def test_reliability_alone_counts_where_no_sampled_neuron_is_universal(demo):
    text = headline({**demo, "token_budget": budget(np.nan, 0.98)}, "Token noise")
    assert "none is either, so there are no sets to compare" in text
    assert "token noise is small" in text


def test_one_shard_has_nothing_to_compare_and_says_so(demo, drawn, tmp_path):
    tables = {**demo, "token_budget": demo["token_budget"].iloc[:0]}
    assert "two shards or more (corpus.shards)" in headline(tables, "Token noise")
    assert "two shards or more" in page_of(tables, drawn, tmp_path)


def test_no_universal_neuron_is_said_plainly(nothing):
    text = headline(nothing, "Universal neurons")
    assert "no universal neuron was found: none of 2,000 neurons" in text
    assert "the highest excess correlation is 0.270" in text
    assert "no persistence to judge" in headline(nothing, "Persistence")
    assert "no universal neurons" in headline(nothing, "Ablation")


def test_a_threshold_is_suggested_where_nothing_is_universal_but_much_beyond_chance(nothing):
    tables = {**nothing, "universality": nothing["universality"].assign(universal=False)}
    text = headline(tables, "Universal neurons", 0.5)
    last = nothing["universality"].query("step == 1000")["excess_corr"]
    suggested = findings(tables, 0.5).suggestion
    assert (last > suggested.threshold).mean() == suggested.found
    assert suggested.by_chance <= 0.05 * suggested.found
    assert f"universality.excess_threshold: {suggested.threshold:g}, or" in text
    assert "universality.criterion: q_value" in text
    below = suggested.threshold - BIN_WIDTH
    null = nothing["nulls"].query("step == 1000 and null == 'rotated'")
    above = null.loc[null["low"] > below - 1e-6, "n"].sum() / null["n"].sum()
    assert above > 0.05 * (last > below).mean()


def test_the_q_value_is_no_way_out_where_no_neuron_is_better_than_the_nulls(nothing):
    table = nothing["universality"].assign(universal=False, q_value=0.06)
    text = headline({**nothing, "universality": table}, "Universal neurons", 0.5)
    assert "universality.excess_threshold: " in text
    assert "universality.criterion" not in text


def test_no_threshold_is_suggested_where_chance_does_as_well(nothing):
    now = nothing["universality"]
    noise = np.random.default_rng(0).normal(0, 0.02, len(now))
    text = headline({**nothing, "universality": now.assign(excess_corr=noise)}, "Universal neurons")
    assert "no universal neuron was found" in text
    assert "excess_threshold:" not in text
    silent = {**nothing, "nulls": nothing["nulls"][:0], "universality": now.assign(q_value=np.nan)}
    assert "excess_threshold:" not in headline(silent, "Universal neurons")


def test_the_report_tells_of_universal_neurons_by_q_value(demo, drawn, tmp_path):
    now = demo["universality"]
    by_layer = {0: 0.05, 1: 0.07}
    judged = now.assign(threshold=now["layer"].map(by_layer), universal=now["q_value"] < 0.05)
    found = Findings({**demo, "universality": judged}, Criterion("q_value", 0.5, 0.05))
    said = next(h.text for h in headlines(found, CONFIG) if h.topic == "Universal neurons")
    assert "match better than the leading null (q < 0.05)" in said
    assert "0.5" not in said.partition(".")[0]
    remarks = " ".join(trust(found, CONFIG, SCORED))
    assert "at the last step these are 0.05 to 0.07" in remarks
    for name in ("emergence", "excess_histogram", "threshold_curve"):
        figure(name, found)
    config = {**CONFIG, "universality": {**CONFIG["universality"], "criterion": "q_value"}}
    assert "criterion: q_value" in page_of(found.tables, drawn, tmp_path, config=config)


def test_what_is_left_given_other_classes_is_told_where_they_were_asked_for(demo):
    now = demo["universality"]
    text = headline(demo, "Universal neurons")
    assert "stay above the threshold once the mean of every token's identity" in text
    assert "Given the" not in text, "not asked for"
    asked = now.assign(excess_given_previous_token=now["excess_corr"], excess_given_position=-1.0)
    text = headline({**demo, "universality": asked}, "Universal neurons")
    n = int(now.loc[now["step"] == now["step"].max(), "universal"].sum())
    assert (
        f"Given the token before alone, which explains a median 25.0 %, {n} of {n} stay above it. "
        f"Given the position alone, which explains a median 12.5 %, 0 of {n} stay above it."
    ) in text


def test_persistence_is_held_against_chance(demo):
    table = pd.DataFrame([overlap("a", 20, 12, 2e-5), overlap("b", 20, 8, 3e-4)])
    text = headline({**demo, "persistence": table}, "Persistence")
    assert (
        "Of the neurons universal at step 10, 50.0 % (20 of 40, pooled over 2 seeds; 40.0 % to "
        "60.0 % in single seeds) are universal at step 2,000." in text
    )
    assert (
        "Of neurons of the same layer that changed as much (by their correlation with themselves), "
        "10.0 % are universal then, so the universal ones are so 5.0 times as often." in text
    )
    assert "in each of 2 seeds (exact test, largest p = 3×10⁻⁴)" in text
    assert "few" not in text


def test_persistence_is_told_with_its_ceiling(demo):
    table = pd.DataFrame([overlap("a", 20, 14, 2e-5), overlap("b", 20, 16, 3e-4)])
    text = headline({**demo, "persistence": table}, "Persistence")
    assert "90.0 % of them would be expected to be universal again: the ceiling of indep" in text
    assert text.endswith(
        "Steps are measured with the same tokens and rotations here, and so share part of the "
        "noise: persistence can be above the ceiling, and noise may make up less of the loss."
    )
    assert "So noise can make up 40.0 % of the loss." in text
    text = headline({**demo, "persistence": table.assign(ceiling=0.7)}, "Persistence")
    assert "So the loss is no more than such noise makes." in text
    text = headline({**demo, "persistence": table.assign(ceiling=np.nan)}, "Persistence")
    assert "ceiling" not in text


def test_without_traces_persistence_is_not_called_unlikely_by_chance(demo):
    table = pd.DataFrame([overlap("a", 20, 12, 2e-5), overlap("b", 20, 8, 3e-4)])
    table = table.assign(matched_chance=np.nan, matched_p_value=np.nan)
    text = headline({**demo, "persistence": table}, "Persistence")
    assert "Of all neurons, 5.0 % are universal then, a low mark to pass" in text
    assert "test" not in text


def test_an_exit_threshold_is_told():
    found = findings(synthetic.tables())
    config = {**CONFIG, "persistence": {"exit_threshold": 0.25}}
    text = next(h.text for h in headlines(found, config) if h.topic == "Persistence")
    assert "until its excess correlation is no longer above 0.25" in text


def moved(shares: dict[str, tuple[float, float]], n: int = 100) -> pd.DataFrame:
    """Courses of one layer of which, by seed, shares of universal and other neurons stay."""
    parts = []
    for seed, by_kind in shares.items():
        for universal, share in zip((True, False), by_kind, strict=True):
            neuron = np.arange(n) + n * universal
            stays = np.arange(n) < share * n
            rows = {"seed": seed, "layer": 0, "neuron": neuron, "universal": universal}
            rows |= {"label": "maintained" if universal else "never", "emergence_step": -1}
            place = {"next_layer": 0, "next_neuron": np.where(stays, neuron, -5), "self_corr": 0.8}
            nothing = {"next_layer": -1, "next_neuron": -1, "self_corr": np.nan}
            parts += [pd.DataFrame(rows | {"step": 10} | place)]
            parts += [pd.DataFrame(rows | {"step": 20} | nothing)]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (
            {"a": (0.73, 0.84), "b": (0.75, 0.85), "c": (0.7, 0.83)},
            "So universal neurons keep their index less often than others (difference −11.3 "
            "percentage points, 95 % interval over 3 seeds −15.1 to −7.5).",
        ),
        ({"a": (0.9, 0.5), "b": (0.92, 0.5)}, "So universal neurons keep their index more often"),
        ({"a": (0.8, 0.5), "b": (0.5, 0.7)}, "The two do not clearly differ in how often"),
        ({"a": (0.7, 0.8)}, "less often than others (difference −10.0 percentage points; one seed"),
    ],
)
def test_universal_neurons_are_compared_with_others_in_keeping_their_index(demo, shares, said):
    text = headline({**demo, "trajectories": moved(shares)}, "Courses of neurons")
    assert said in text


def test_persistence_that_some_seeds_do_not_show_is_told_so(demo):
    table = pd.DataFrame(
        [overlap("a", 5, 4, 1e-4), overlap("b", 5, 1, 0.4), overlap("c", 0, 0, np.nan)]
    )
    text = headline({**demo, "persistence": table}, "Persistence")
    assert "(5 of 10, pooled over 2 seeds" in text
    assert "an overlap as large would be rare (p < 0.05, exact test) in 1 of 2." in text
    assert "These are few neurons." in text


def test_persistence_below_chance_is_told_so(demo):
    table = pd.DataFrame([overlap("a", 30, 1, 0.9, chance=0.5)])
    text = headline({**demo, "persistence": table}, "Persistence")
    assert "so the universal ones persist no more than these" in text


SEEDS = {"a": 0.010, "b": 0.011, "c": 0.012}
CONTROLS = [0.004, 0.005, 0.006]


def on_ablation(demo, *rows: dict) -> str:
    return headline({**demo, "ablation": pd.DataFrame(list(rows))}, "Ablation (mean)")


def test_ablation_above_controls_is_told_with_ratio_and_interval(demo):
    text = on_ablation(demo, *ablation(SEEDS, CONTROLS))
    # Differences 0.005, 0.006, 0.007: between seeds 0.001/√3, over sequences 0.0001, t of 2 4.303.
    half = 4.303 * np.sqrt(1e-6 / 3 + 1e-8)
    assert half == pytest.approx(0.0025, abs=5e-5)
    assert "raises the held-out loss by 0.01100 nats per token (standard error 0.00059" in text
    assert "3 per model, raises it by 0.00500" in text
    assert "Without the predictions made at position 0 it is 0.00990 and 0.00450" in text
    assert "0.0060 nats per token (95 % interval 0.0035 to 0.0085; ratio 2.20)" in text
    assert "costs more than ablating others by which as much is changed" in text


def test_ablation_within_the_spread_of_seeds_is_not_distinguishable(demo):
    # Every seed's difference is some 20 standard errors over sequences away from 0.
    text = on_ablation(demo, *ablation({"a": 0.003, "b": 0.006, "c": 0.009}, CONTROLS))
    assert "is compatible with zero: universal neurons are not distinguishable" in text
    assert "costs more" not in text
    assert "It is positive in 2 of 3 seeds" in text


def test_ablation_below_controls_is_told_so(demo):
    text = on_ablation(demo, *ablation({"a": -0.001, "b": -0.0011, "c": -0.0012}, CONTROLS))
    assert "lowers the held-out loss by 0.00110" in text
    assert "costs less than ablating others" in text


def test_a_difference_that_goes_with_what_is_changed_is_no_verdict(demo):
    # Twice as much for 1.4 times the energy is more, 1.4 times as much is not.
    more = ablation(SEEDS, CONTROLS, energy_ratio=1.4)
    assert "costs more than ablating others" in on_ablation(demo, *more)
    same = ablation({"a": 0.007, "b": 0.0071, "c": 0.0069}, CONTROLS, energy_ratio=1.4)
    text = on_ablation(demo, *same)
    assert "is above zero, but not clearly so at equal energy" in text
    assert "costs more" not in text


def test_sets_that_are_changed_by_more_than_any_others_get_no_verdict(demo):
    tables = {**demo, "ablation": pd.DataFrame(ablation(SEEDS, CONTROLS, comparable=False))}
    text = headline(tables, "Ablation (mean)")
    assert "Not comparable in any of 3 seeds, so there is no verdict" in text
    assert "Those that have a partner are not compared on their own" in text
    assert "30.0 % of the summed squared sizes" in text
    assert "costs more" not in text
    assert "distinguishable" not in text
    cost = claims(tables)["ablating them costs more than ablating others"]
    assert "controls: not comparable, as no other neurons change as much" in cost
    row = next(t for t in short_tables(findings(tables)) if t.title == "Ablation").rows[0]
    assert (row["difference"], row["95 % interval"]) == ("not comparable", "–")
    assert row["energy"] == "2 / 2"
    assert row["per energy"] == "5.500 / 2.500"
    assert "In 3 of 3 comparisons" in " ".join(trust(findings(tables), CONFIG, SCORED))


def test_the_verdict_is_of_the_comparable_seeds_only(demo):
    wild = ablation({"d": 5.0, "e": 9.0}, CONTROLS, comparable=False)
    text = on_ablation(demo, *ablation(SEEDS, CONTROLS), *wild)
    first, over_all = text.split(" At step 7, over all seeds, comparable or not, replacing")
    assert first.startswith("In 3 of 5 seeds the ablated and control sets are comparable; there, ")
    assert "the difference, 0.0060 nats" in first
    assert "costs more than ablating others" in first
    assert "mean over 5 seeds" in over_all


def test_layers_are_sorted_by_what_can_be_said_of_them(demo):
    text = on_ablation(
        demo,
        *ablation(SEEDS, CONTROLS),
        *ablation(SEEDS, CONTROLS, layer=0),
        *ablation(SEEDS, CONTROLS, comparable=False, layer=1),
        *ablation({"a": 0.005}, CONTROLS, layer=2),
    )
    assert (
        "the difference is above zero, also at equal energy, in layer 0, of unknown uncertainty "
        "in layer 2 and not to be judged, as the sets are not comparable, in layer 1." in text
    )


def test_no_ratio_where_the_controls_change_nothing(demo):
    assert "ratio" not in on_ablation(demo, *ablation(SEEDS, [-1e-5, 0.0, 2e-5], se=1e-4))


def test_one_seed_is_not_enough_to_judge(demo):
    text = on_ablation(demo, *ablation({"a": 0.01}, CONTROLS))
    assert "its uncertainty is not known" in text


@pytest.mark.parametrize("between", [0.0, 0.5, 2.0])
def test_intervals_cover_the_truth_for_new_seeds_and_new_text(between):
    """Differences of five seeds on one sample of text, which moves all of them together."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1500):
        text = rng.normal()
        values = pd.Series(3 + text + between * rng.normal(size=5))
        _, low, high = contrasts.interval(values, pd.Series(np.ones(5)))
        covered.append(low <= 3 <= high)
    assert np.mean(covered) > 0.94


def test_ablation_at_an_earlier_step_is_told_so(demo):
    rows = ablation(SEEDS, CONTROLS)
    late = {"step": 9, "neuron_set": "universal", "n_neurons": 0, "delta_loss": np.nan}
    text = on_ablation(demo, *rows, rows[0] | late)
    assert text.startswith("At step 7, the last with universal neurons, replacing")


def test_smaller_control_sets_are_admitted(demo):
    rows = ablation({"a": 0.01}, [0.004, 0.005], n=4)
    rows[1]["n_neurons"] = 2
    remarks = " ".join(trust(findings({**demo, "ablation": pd.DataFrame(rows)}), CONFIG, SCORED))
    assert "In 1 case (step, seed and layer) more neurons are universal than not" in remarks
    remarks = " ".join(trust(findings(demo), CONFIG, SCORED))
    assert "control sets are smaller" not in remarks


@pytest.mark.parametrize(("end", "verb"), [(2.0, "falls from"), (4.0, "does not fall")])
def test_loss_is_told_from_first_to_last_step(demo, end, verb):
    models = pd.DataFrame({"step": [1, 5], "seed": "a", "heldout_loss": [3.0, end]})
    models["loss_kind"] = "next_token"
    text = headline({**demo, "models": models}, "Held-out loss")
    assert "masked" not in text
    of_encoders = {**demo, "models": models.assign(loss_kind="masked")}
    assert "held-out loss at masked tokens" in headline(of_encoders, "Held-out loss")
    assert verb in text
    assert f"3.000 nats per token at step 1 to {end:.3f} at step 5 (mean over 1 seed" in text


def test_copies_are_flagged(demo):
    models = demo["models"].copy()
    assert warnings(findings({**demo, "models": models}), CONFIG) == []
    models.loc[7, "duplicate_of"] = "0/300"
    (warning,) = warnings(findings({**demo, "models": models}), CONFIG)
    assert "seed 1 step 300 (same as 0/300)" in warning
    remarks = trust(findings({**demo, "models": models}), CONFIG, SCORED)
    assert not any("No two models" in remark for remark in remarks)


def test_trust_counts_dead_neurons_escapes_few_tokens_and_tokens(demo):
    neurons = pd.DataFrame(
        {
            "step": 1,
            "seed": "a",
            "layer": 0,
            "neuron": range(4),
            "dead": [True, False, False, False],
            "escapes": 3,
            "effective_tokens": [0.0, 1.5, 49.0, 50.0],
            "rounding_se": [0.0, 2e-4, 1e-4, 1e-4],
            "std": [0.0, 1.0, 1.0, 1.0],
        }
    )
    remarks = trust(findings({**demo, "neurons": neurons}), CONFIG, 1200)
    text = " ".join(remarks).replace("\u00a0", " ")
    assert "1 of 4 neurons (25.0 %)" in text
    assert "12 activation values of all models (0.25 %)" in text
    assert "none was cut" in text
    assert "2 of 4 neurons have all their variance in fewer than 50 tokens" in text
    assert "a standard error of at most 0.0002 to a correlation" in text
    assert "1,200 scored tokens" in text
    assert "standard error of 0.029" in text


def screened(demo, **changes):
    table = synthetic.screening("abc", [1, 2], **changes)
    return findings({**demo, "screening": table})


def test_the_screened_mode_tells_its_sample_its_audit_and_what_is_estimated(demo):
    said = " ".join(trust(screened(demo), CONFIG, SCORED)).replace("\u00a0", " ")
    assert "correlate.mode: screened): all pairs of neurons on 25,000 of 500,000 tokens" in said
    # 12 directions of 400 neurons, of which 350 are certified and 100 of these compared with all.
    assert "Of 4,800 best matches 1,800 rest on a comparison" in said
    assert "3,000 (62.5 %) on a certificate" in said
    # Of 1,200 none: 1 − 0.05^(1/1200).
    assert "0 had a better match, so that at most 0.25 % of the certificates are wrong" in said
    assert "which over the audited neurons was -0.012 off on average" in said
    assert "root mean square error of 0.006 is left" in said
    assert warnings(screened(demo), CONFIG) == []
    assert not any("screened" in remark for remark in trust(findings(demo), CONFIG, SCORED))


def test_without_certified_neurons_left_nothing_is_estimated(demo):
    table = synthetic.screening("ab", [1]).assign(certified=100, baseline_error=None)
    found = findings({**demo, "screening": table})
    assert "All baselines are of all tokens." in " ".join(trust(found, CONFIG, SCORED))


def test_a_small_sample_and_wrong_certificates_are_warned_of(demo):
    (small,) = warnings(screened(demo, sampled=3000), CONFIG)
    assert small.startswith("Best matches were screened on 3,000 tokens. Below 20,000")
    (wrong,) = warnings(screened(demo, wrong=1), CONFIG)
    assert wrong.startswith("12 of 1,200 audited certificates were wrong.")


def test_coarse_codes_are_warned_of(demo):
    neurons = demo["neurons"].copy()
    assert warnings(findings({**demo, "neurons": neurons}), CONFIG) == []
    neurons.loc[7, "rounding_se"] = 0.02
    (warning,) = warnings(findings({**demo, "neurons": neurons}), CONFIG)
    assert "The codes of 1 neuron are too coarse" in warning.replace("\u00a0", " ")
    assert "L0N7 of seed 0, step 50)" in warning
    assert "capture.calibration_tokens" in warning


def test_variance_at_position_0_is_warned_of_by_layer(demo):
    neurons = demo["neurons"].copy()
    assert warnings(findings({**demo, "neurons": neurons}), CONFIG) == []
    # Five neurons of every seed that are much larger than all others, on the first token.
    sink = (neurons["step"] == 1000) & (neurons["layer"] == 1) & (neurons["neuron"] < 5)
    neurons.loc[sink, "std"] = 50.0
    neurons.loc[sink, "first_position_share"] = 0.9
    (warning,) = warnings(findings({**demo, "neurons": neurons}), CONFIG)
    warning = warning.replace("\u00a0", " ")
    assert re.search(r"At the last step, 8\d\.\d % of the variance of layer 1's", warning)
    assert "one in 64; so it is above 10.0 % in layer 1." in warning
    assert "25 neurons of layer 1 in all seeds have more than half of theirs there" in warning
    assert "corpus.exclude_positions: [0]" in warning
    # Where one in eight tokens is a first one, an eighth of the variance is theirs.
    short = {**CONFIG, "corpus": {**CONFIG["corpus"], "context_length": 8}}
    even = neurons.assign(first_position_share=1 / 8)
    assert warnings(findings({**demo, "neurons": even}), short) == []


@pytest.mark.parametrize(
    ("threshold", "remark"),
    [(0.3, "The papers use 0.5, for GPT-2 Small"), (0.5, "It is the one of the papers, for GPT-2")],
)
def test_the_threshold_is_held_against_the_papers(demo, threshold, remark):
    text = " ".join(trust(findings(demo, threshold), CONFIG, SCORED))
    assert remark in text
    assert ("would pass 0.5" in text) == (threshold != 0.5)


def test_sentences_tables_and_figures_share_their_summaries(demo, monkeypatch):
    # Of universal neurons and of doses, the last two.
    owner = {
        **dict.fromkeys(("universal_counts", "pooled_counts", "budget_over_seeds"), summaries),
        "moves": lasting,
        **dict.fromkeys(("contrasts", "over_seeds"), contrasts),
    }
    computed = {name: Mock(wraps=getattr(module, name)) for name, module in owner.items()}
    for name, counted in computed.items():
        monkeypatch.setattr(owner[name], name, counted)
    found = findings(demo)
    headlines(found, CONFIG)
    trust(found, CONFIG, SCORED)
    short_tables(found)
    for name in FIGURES:
        figure(name, found)
    calls = {name: counted.call_count for name, counted in computed.items()}
    assert calls == {**dict.fromkeys(owner, 1), "contrasts": 2, "over_seeds": 2}


class Links(HTMLParser):
    """Collects what a page refers to, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.urls += [value for key, value in attrs if key in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "br", "hr", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_on_its_own(demo, drawn, tmp_path):
    page = page_of(demo, drawn, tmp_path)
    links = Links()
    links.feed(page)
    assert links.open == []
    assert len([url for url in links.urls if url.startswith("data:image/svg+xml")]) == len(FIGURES)
    assert all(url.startswith(("data:", "#")) for url in links.urls)
    assert not {"script", "link", "iframe", "object"}.intersection(links.tags)
    assert not re.search(r"url\(|@import", page)


def test_every_figure_paragraph_and_table_answers_one_question(demo):
    figures = [*(name for question in QUESTIONS for name in question.figures), OPENING_FIGURE]
    assert sorted(figures) == sorted(FIGURES)
    opening, *said = headlines(findings(demo), CONFIG)
    assert opening.topic == "In short"
    for each in said:
        assert sum(belongs(each.topic, question) for question in QUESTIONS) == 1, each.topic
    titles = [title for question in QUESTIONS for title in question.tables]
    benchmarks = {"capture": {"jobs": 1.0, "seconds": 1.0, "memory_mb": 1.0}}
    preferences = pd.DataFrame({"subset": ["a"], "n_tokens": 5, "n_neurons": 2, "n_universal": 1})
    shown = {table.title for table in short_tables(findings(demo), benchmarks, preferences)}
    assert len(set(titles)) == len(titles)
    assert shown <= set(titles)


def test_what_cannot_be_drawn_is_a_sentence(tmp_path):
    """One step: nothing can persist, and there is no figure that says so."""
    tables = synthetic.tables(steps=[5])
    for name in FIGURES:
        save(figure(name, findings(tables)), tmp_path / name)
    page = page_of(tables, tmp_path, tmp_path)
    assert "Does the function move to another index?: one step only: nothing can move." in page
    assert 'alt="Does the function move to another index?"' not in page
    assert 'alt="Universal neurons by step"' in page


def test_the_tiles_are_the_numbers_of_the_tables(demo):
    shares = demo["fractions"].query("seed == '' and layer == -1").sort_values("step").iloc[-1]
    shown = {tile.label: tile for tile in tiles(findings(demo))}
    assert shown["universal"].value == percent(shares["mean_fraction"])
    assert share_range(shares["low"], shares["high"]) in shown["universal"].note
    known = demo["persistence"].query("layer == -1 and n_from > 0")
    last = known[known["to_step"] == known["to_step"].max()]
    last = last[last["from_step"] == last["from_step"].max()]
    kept = shown["persist to the last step"]
    assert kept.value == percent(last["n_both"].sum() / last["n_from"].sum())
    assert "measured anew there" in kept.note


def test_tiles_say_why_a_number_is_missing():
    notes = {tile.label: tile for tile in tiles(findings(synthetic.tables(steps=[5])))}
    assert notes["persist to the last step"].value == "–"
    assert notes["persist to the last step"].note == "this run has one step"


def test_every_anchor_leads_somewhere(demo, drawn, tmp_path):
    page = page_of(demo, drawn, tmp_path)
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page


def test_the_report_is_written_without_matplotlib_and_torch():
    listed = "import sys, universal_neurons.report.page; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", listed], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "universal_neurons.report.findings" in modules
    assert not {"matplotlib", "torch", "transformers"}.intersection(modules)


def test_a_gallery_shows_tokens_as_text_and_links_to_the_explorer(demo, drawn, tmp_path):
    reading = Reading("b/x", "1.5", "explorer/index.html#/b%2Fx/20/1/5", [Token("<b>\n", -0.5)])
    page = page_of(demo, drawn, tmp_path, gallery=[Shown("Close.", [[reading], [reading]])])
    assert 'href="explorer/index.html#/b%2Fx/20/1/5"' in page
    assert "&lt;b&gt;⏎</span>" in page
    assert "rgba(213,94,0,0.33)" in page or "rgba(213,94,0,0.32)" in page
    assert page.count("<details><summary>More contexts") == 1
    assert 'id="gallery"' not in page_of(demo, drawn, tmp_path)


def test_names_are_escaped(demo, drawn, tmp_path):
    page = page_of(demo, drawn, tmp_path)
    assert "demo &lt;script&gt;" in page
    assert "f00 &amp; &lt;b&gt;" in page


def test_captions_are_sound(demo, drawn, tmp_path):
    page = page_of(demo, drawn, tmp_path)
    assert "system-message" not in page
    shown = page.count("<figcaption>")
    assert page.count("<p><strong>What.</strong>") == shown == len(FIGURES)
    for path in CAPTIONS.glob("*.rst"):
        # Snakemake renders captions as Jinja templates.
        assert not re.search(r"\{[{%#]", path.read_text()), path


def test_short_tables_show_every_step_layer_and_model(demo, drawn, tmp_path):
    titles = {table.title: table for table in short_tables(findings(demo))}
    universal = titles["Universal neurons by step and layer"]
    assert [row["step"] for row in universal.rows] == ["50", "150", "300", "600", "1,000"]
    assert {"all layers", "layer 0", "layer 1"} <= set(universal.columns)
    assert len(titles["Models"].rows) == 25
    assert titles["Models"].rows[0]["SHA-256"] == demo["models"]["sha256"][0][:12]
    ablated = titles["Ablation"].rows
    assert [row["layer"] for row in ablated] == ["all", "all", "all", "0", "1"]
    mine = demo["ablation"].query("step == 1000 and layer == -1 and neuron_set == 'universal'")
    assert ablated[2]["universal"].startswith(f"{1e3 * mine['delta_loss'].mean():.3f} ± ")
    assert "Time and memory" not in page_of(demo, drawn, tmp_path)


def test_every_cell_says_its_column_where_a_phone_has_no_room_for_heads(demo, drawn, tmp_path):
    page = page_of(demo, drawn, tmp_path)
    tables = re.findall(r'<table aria-label="[^"]+" class="cards.*?</table>', page, re.DOTALL)
    assert len(tables) >= 8
    for table in tables:
        heads = re.findall(r"<th scope.*?>(.*?)</th>", table)
        cells = re.findall(r'<td data-of="(.*?)"', table)
        assert cells == heads * table.count("<tr><td")


@pytest.mark.parametrize(
    "case", [{"universal": False}, {"steps": [5]}, {"n_layers": 1, "seeds": ["x", "y"]}]
)
def test_poor_runs_have_a_report_too(case, drawn, tmp_path):
    page = page_of(synthetic.tables(**case), drawn, tmp_path)
    assert not re.search(r"\b(nan|NaN|None(?! of))\b", re.sub(r'src="[^"]*"', "", page))


def test_without_groups_and_nulls_there_is_a_report(demo, drawn, tmp_path):
    columns = {"q_value": np.nan, "p_value": np.nan, "in_group": False}
    tables = {**demo, "universality": demo["universality"].assign(**columns)}
    for name in ("groups", "nulls"):
        tables[name] = tables[name][:0]
    page = page_of(tables, drawn, tmp_path)
    assert "No p-values" in page
    assert not re.search(r"\b(nan|NaN|None(?! of))\b", re.sub(r'src="[^"]*"', "", page))
    for name in ("excess_histogram", "threshold_curve"):
        figure(name, findings(tables))


def test_a_missing_caption_or_figure_is_named(demo, drawn, tmp_path):
    options = {
        "config": CONFIG,
        "provenance": ORIGIN,
        "out": tmp_path / "report.html",
    }
    with pytest.raises(UserError, match=r"\.rst is missing: every figure needs a caption"):
        write_report(demo, drawn, tmp_path, **options)
    with pytest.raises(UserError, match=r"emergence\.svg is missing"):
        write_report(demo, tmp_path, CAPTIONS, **options)


def test_a_page_or_figure_that_is_not_written_to_the_end_leaves_the_one_before(
    demo, drawn, tmp_path, monkeypatch
):
    figure_before = (drawn / "emergence.svg").read_bytes()
    page_of(demo, drawn, tmp_path)
    whole, write = (tmp_path / "report.html").read_bytes(), Path.write_text

    def killed(path, text, **options):
        write(path, text[:1000], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(OSError, match="No space left"):
        page_of(demo, drawn, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    broken = figure("emergence", findings(demo))
    monkeypatch.setattr(broken, "savefig", lambda path, **_: killed(Path(path), "x" * 2000))
    with pytest.raises(OSError, match="No space left"):
        save(broken, drawn / "emergence")
    assert (drawn / "emergence.svg").read_bytes() == figure_before


def test_benchmarks_are_added_up_by_rule(demo, drawn, tmp_path):
    header = "s\th:m:s\tmax_rss\n"
    (tmp_path / "capture" / "seed0").mkdir(parents=True)
    (tmp_path / "capture" / "seed0" / "a.tsv").write_text(header + "1.5\t0:00:01\t100\n")
    (tmp_path / "capture" / "b.tsv").write_text(header + "2.5\t0:00:02\t300\n")
    (tmp_path / "models.tsv").write_text(header + "0.1\t0:00:00\t-\n")
    costs = read_benchmarks(tmp_path)
    assert list(costs) == ["capture", "models"]
    assert costs["capture"] == {"jobs": 2, "seconds": 4.0, "memory_mb": 300}
    page = page_of(demo, drawn, tmp_path, benchmarks=costs)
    assert "Time and memory by rule" in page
    assert not re.search(r"\b(nan|NaN|None(?! of))\b", re.sub(r'src="[^"]*"', "", page))


def test_percentages_are_not_rounded_to_none_or_all(demo):
    table = universality({(1, "a"): 1, (1, "b"): 0}, n=20_000)
    text = headline({**demo, "universality": table}, "Universal neurons")
    assert "under 0.01 % of neurons (1 of 40,000" in text


def claims(tables):
    table = next(t for t in short_tables(findings(tables)) if t.title == "Published claims")
    return {row["published claim"].split(" (")[0]: row["this run"] for row in table.rows}


def test_claims_are_answered_with_the_runs_own_numbers(demo):
    found = {claim: text.replace("\u00a0", " ") for claim, text in claims(demo).items()}
    last = demo["universality"].query("step == 1000")["universal"].mean()
    assert found["1 to 5 % of neurons are universal"].startswith(f"{100 * last:.1f} %")
    assert "they rise from" in found["universal neurons appear early and rise in number"]
    persist = found["they persist far above chance"]
    assert "by chance among neurons that changed as much: p < 0.05 in 4 of 5 seeds" in persist
    assert "(measured anew, with other tokens: 90.0 %)" in persist
    cost = found["ablating them costs more than ablating others"]
    assert "above zero, also at equal energy of what is changed" in cost
    assert "above each of its control sets in 5 of 5 comparable seeds" in cost
    some = demo["ablation"].copy()
    some.loc[some["seed"] != some["seed"].iloc[0], "comparable"] = False
    rows = some.query("step == 1000 and layer == -1 and neuron_set == 'universal' and comparable")
    cost = claims({**demo, "ablation": some})["ablating them costs more than ablating others"]
    alone = rows["difference"].iloc[0]
    assert cost.startswith(f"in 1 of 5 seeds, the comparable one, a difference of {alone:.4f} nats")
    assert "comparable seed; over all seeds " in cost
    assert "largest in layer" in found["most of all in layer 0"]
    # Two layers have no middle.
    assert found["most so in the first and last layers"].startswith("cannot be said from this run")


def test_poor_runs_leave_claims_open():
    for case in ({"universal": False}, {"steps": [5]}):
        found = claims(synthetic.tables(**case))
        assert "cannot be said from this run" in found["they persist far above chance"]
    nothing = claims(synthetic.tables(universal=False))
    for claim in ("ablating them costs more than ablating others", "most of all in layer 0"):
        assert "cannot be said from this run" in nothing[claim]


def test_a_difference_within_its_interval_is_not_called_one(demo):
    doses = demo["doses"].assign(difference_se=1.0)
    text = headline({**demo, "doses": doses}, "Doses")
    assert "not distinguishable from comparable others" in text
    clear = headline(demo, "Doses")
    assert "not distinguishable" not in clear
    assert "10 % of neurons" in clear


def test_single_neurons_are_judged_by_the_agreement_of_seeds(demo):
    text = headline(demo, "Single neurons")
    assert "not distinguishable" not in text
    rng = np.random.default_rng(0)
    noise = demo["effects"].assign(excess_corr=rng.normal(size=len(demo["effects"])))
    assert "not distinguishable from chance" in headline(
        {**demo, "effects": noise}, "Single neurons"
    )


def test_a_correlation_by_size_alone_is_not_left_standing(demo):
    """Large neurons match better and cost more; of those alike, the better matched cost less."""
    rng = np.random.default_rng(0)
    seeds = pd.Categorical(np.repeat(["a", "b"], 1000))
    size, own, layer = rng.normal(size=2000), rng.normal(size=2000), rng.integers(0, 2, 2000)
    table = pd.DataFrame(
        {
            "step": 5,
            "seed": seeds,
            "layer": layer,
            "excess_corr": size + 2 * layer + 0.5 * own,
            "attributed_delta_loss": np.exp(size + 2 * layer - 0.3 * own),
            "perturbation": np.exp(size),
            "sparsity": rng.uniform(size=2000),
            "delta_loss": np.nan,
            "sampled": "",
        }
    )
    text = headline({**demo, "effects": table}, "Single neurons")
    assert re.search(r"have a rank correlation of 0\.[89]\d \(mean over 2 seeds", text)
    assert re.search(r"The partial rank correlation, given .* is −0\.[45]\d \(mean over 2", text)
    # What is left of a column that the others explain is nothing, and no correlation.
    explained = table.assign(excess_corr=table["perturbation"])
    text = headline({**demo, "effects": explained}, "Single neurons")
    assert "its sparsity and its layer, is not known" in text


def test_a_partial_rank_correlation_is_that_of_residuals():
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.normal(size=(300, 4)), columns=["x", "y", "p", "q"])
    table["layer"] = rng.integers(0, 3, 300)
    table["x"] += table["p"] + table["layer"]
    table["y"] += table["p"] - table["q"]
    ranks = table[["x", "y", "p", "q"]].rank()
    design = np.column_stack([pd.get_dummies(table["layer"]), ranks[["p", "q"]]]).astype(float)
    left = [
        ranks[one] - design @ np.linalg.lstsq(design, ranks[one], rcond=None)[0] for one in "xy"
    ]
    found = summaries.partial_rank_correlation(table, "x", "y", given=["p", "q"], within="layer")
    assert found == pytest.approx(np.corrcoef(left)[0, 1])


def test_courses_are_counted_once_per_neuron(demo):
    table = demo["trajectories"]
    counts = table[table["step"] == 1000]["label"].value_counts()
    text = headline(demo, "Courses of neurons")
    for name in ("emergent", "maintained", "transient", "lost"):
        assert f"{counts.get(name, 0):,} {name}" in text


def test_groups_are_counted_once_for_all_seeds(demo):
    last = demo["universality"].query("step == 1000")
    groups = last["in_group"].sum() // 5
    assert groups > 1
    text = headline(demo, "Groups")
    assert f"{groups:,} groups of 5 neurons" in text
    assert "against 1 in one sample in which every model reads other sequences" in text
    assert "left out in 75" in text
    none = demo["universality"].assign(in_group=False, leave_one_out=np.nan, leave_one_out_cases=0)
    text = headline({**demo, "universality": none}, "Groups")
    assert text == "At the last step no neurons are each other's best match in all seeds."


def test_seeds_left_out_are_counted_case_by_case(demo):
    """Neurons with one case, where it can't be matched, weigh no more than that."""
    table = demo["universality"].assign(leave_one_out=np.nan, leave_one_out_cases=0)
    rows = table.index[table["step"] == 1000]
    table.loc[rows[:30], ["leave_one_out", "leave_one_out_cases"]] = 0.0, 1
    table.loc[rows[30:60], ["leave_one_out", "leave_one_out_cases"]] = 1.0, 4
    text = headline({**demo, "universality": table}, "Groups")
    assert "left out in 80.0 % of the 150 cases" in text


def test_two_seeds_are_no_groups_and_their_mutual_matches_are_held_against_noise():
    pair = synthetic.tables(seeds=("0", "1"))
    text = headline(pair, "Groups")
    assert "8 pairs of neurons are each other's best match; 2 are in one sample" in text
    assert "too few to speak of groups" in text
    assert "groups of" not in text


def test_matches_by_noise_are_said_to_be_one_draw(demo):
    tables = {table.title: table for table in short_tables(findings(demo))}
    note = tables["Notions of a universal neuron"].note
    assert note.endswith("read other sequences, in one draw of these; others give another number.")


def test_notions_are_compared_by_their_sets(demo):
    table = summaries.agreement(demo["universality"], 0.05)
    last = demo["universality"].query("step == 1000")
    assert table.loc["universal", "count"] == last["universal"].sum()
    one, two = (set(last.index[last[name]]) for name in ("universal", "in_group"))
    assert 0 < len(one & two) < len(one | two)
    assert table.loc["universal", "in a group"] == len(one & two) / len(one | two)
    assert table.loc["in a group", "in a group"] == 1
    assert table.loc[summaries.MUTUAL, "by_noise"] == 10, "one per seed and layer"
    assert table["by_noise"].isna().sum() == len(table) - 1
    nothing = summaries.agreement(demo["universality"].assign(in_group=False), 0.05)
    assert np.isnan(nothing.loc["in a group", "in a group"])
    assert nothing.loc["in a group", "universal"] == 0


def test_what_a_layer_explains_is_not_taken_for_split_neurons(demo):
    """Of 400 neurons of a seed 100 have a match, 200 are explained without one, 100 are neither."""
    scores = demo["universality"]
    place = scores["neuron"] % 4
    scores = scores.assign(
        max_corr=np.where(place == 0, 0.9, 0.6),
        regression_r2=np.select([place == 0, place < 3], [0.95, 0.8], 0.1),
    )
    first = scores["step"] == scores["step"].min()
    scores.loc[first, "regression_r2"] = np.where(place[first] == 1, 0.8, 0.1)
    said = headline({**demo, "universality": scores}, "Neuron or subspace")
    assert (
        "no single neuron of another seed explains 50 % of the variance of 1,500 of 2,000" in said
    )
    assert "explain as much of 1,000 of these (66.7 %)" in said
    assert "(66.7 %); at the first step (50) the share was 33.3 %" in said
    assert "it is not shown that these neurons are split rather than absent" in said
    none = scores.assign(regression_r2=0.1)
    without = headline({**demo, "universality": none}, "Neuron or subspace")
    assert "all neurons of a layer together explain as much of none of these." in without
    assert "split" not in without
    near = demo["similarity"].query("layer == other_layer and step == 1000")
    assert f"linear CKA of {near['cka'].mean():.2f}" in said


def test_the_report_says_where_layers_were_not_compared(demo):
    scores = demo["universality"].assign(regression_r2=np.nan)
    tables = {**demo, "universality": scores, "similarity": demo["similarity"].iloc[:0]}
    said = headline(tables, "Neuron or subspace")
    assert said.startswith("Whole layers were not compared")
