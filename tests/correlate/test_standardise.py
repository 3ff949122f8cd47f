"""The rotated baseline of standardised neurons: planted variances, units, and plain float64."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pipeline import corr, gpt2, module_activations, random_tokens, run_capture, run_match

from universal_neurons.activations.products import tile_name
from universal_neurons.correlate.match import match
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.correlate.neurons import Neurons
from universal_neurons.correlate.rotations import (
    Baseline,
    Rotating,
    rotated_std,
    rotation,
    rotation_name,
)
from universal_neurons.report.baseline import baseline_by_layer, baseline_remark
from universal_neurons.score.universality import (
    matches_table,
    universality_table,
    with_choices,
)
from universal_neurons.store.columns.declare import ALL_LAYERS

N, TOKENS, DRAWS = 64, 4000, 3


@pytest.fixture(scope="module")
def codes():
    """Two models of one layer that share half their variance; neuron 5 of either is dead."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(TOKENS, N))
    made = [np.rint(20 * (shared + rng.normal(size=shared.shape))) for _ in range(2)]
    for model in made:
        model[:, 5] = 3
    return made


def baselines(codes, scales, *, standardise):
    """Baseline of the neurons of the first model, in those of the second with the given units."""
    models = []
    turned = {rotation_name(N, 0, draw): rotation(0, 0, draw, N) for draw in range(DRAWS)}
    for x, scale in zip(codes, scales, strict=True):
        covariance = np.cov(x.T, ddof=0) * np.outer(scale, scale)
        neurons = Neurons([N], TOKENS, x.sum(0), scale, np.sqrt(covariance.diagonal()))
        rotating = Rotating(DRAWS, standardise)
        spread = rotated_std(covariance, turned, 0, rotating)
        models.append((neurons, Baseline(neurons, turned, spread, standardise=standardise)))
    (a, baseline_a), (b, baseline_b) = models
    tiles = {tile_name(0, 0): codes[0].T @ codes[1]}
    ahead, _ = match(tiles, a, b, [0], baseline_a=baseline_a, baseline_b=baseline_b)
    return ahead.baseline


def test_one_neuron_of_huge_variance_is_the_baseline_unless_neurons_are_standardised(codes):
    alike, huge = np.ones(N), np.ones(N)
    huge[7] = 1e7
    with_it = np.abs(corr(codes[0], codes[1])[:, 7])
    dominated = baselines(codes, (alike, huge), standardise=False)
    np.testing.assert_allclose(dominated, np.tile(with_it, (DRAWS, 1)), atol=0.01)
    std = codes[1].std(0)
    units = np.divide(1, std, out=np.ones(N), where=std > 0)
    equal = baselines(codes, (alike, units), standardise=False)
    standardised = baselines(codes, (alike, huge), standardise=True)
    np.testing.assert_allclose(standardised, equal, atol=1e-5)
    assert np.abs(dominated - equal).max() > 0.1


def test_units_change_nothing_of_a_standardised_baseline(codes):
    rng = np.random.default_rng(1)
    units = [10.0 ** rng.uniform(-30, 30, N) for _ in codes]
    alike = [np.ones(N)] * 2
    found, expected = (baselines(codes, scales, standardise=True) for scales in (units, alike))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.isfinite(found).all()
    assert (found[:, 5] == 0).all(), "a dead neuron correlates with nothing"


def turned_best(mine, theirs, draw, standardise):
    """Largest correlations with rotated neurons, from activations in float64."""
    rotated = []
    for layer, x in enumerate(theirs):
        if standardise:
            std = x.std(0)
            x = np.divide(x - x.mean(0), std, out=np.zeros_like(x), where=std > 1e-9)
        rotated.append(x @ rotation(0, layer, draw, x.shape[1]).T.astype(np.float64))
    return corr(np.hstack(mine), np.hstack(rotated)).max(1)


@pytest.mark.parametrize("standardise", [False, True])
def test_both_choices_equal_a_plain_float64_computation(standardise, tmp_path):
    tokens = random_tokens(200, 16)
    models = {"a": gpt2(0), "b": gpt2(1, d_mlp=24, layers=3)}
    shards = {
        seed: run_capture(model, tokens, tmp_path / seed, seed=seed, encoding="float32")
        for seed, model in models.items()
    }
    truth = {seed: module_activations(model, tokens) for seed, model in models.items()}
    parts = run_match(
        *shards.values(), tmp_path, blocks=[(0,), (1,)], draws=2, standardise=standardise
    )
    for (own, other), found in StepMatches.read(parts).found.items():
        for draw in range(2):
            expected = turned_best(truth[own], truth[other], draw, standardise)
            np.testing.assert_allclose(found.baseline[draw], expected, atol=2e-5)
        expected = turned_best(truth[own], truth[other], 0, not standardise)
        np.testing.assert_allclose(found.other_baseline, [expected], atol=2e-5)
        assert np.abs(found.baseline[0] - found.other_baseline[0]).max() > 0.01


def test_the_excess_of_either_choice_takes_the_first_rotation_and_all_other_seeds(tmp_path):
    tokens = random_tokens(60, 16)
    shards = {
        seed: run_capture(gpt2(i), tokens, tmp_path / seed, seed=seed)
        for i, seed in enumerate("abc")
    }
    parts = []
    for one, other in ("ab", "ac", "bc"):
        (tmp_path / (one + other)).mkdir()
        parts += run_match(shards[one], shards[other], tmp_path / (one + other))
    step = StepMatches.read(parts)
    scores = with_choices(universality_table(matches_table(step, 1)), step.found)
    mine = scores[scores["seed"] == "b"]
    of_b = [step.found["b", other] for other in "ac"]
    for column, name in (("first_rotation", "baseline"), ("other_choice", "other_baseline")):
        expected = np.mean([found.best - getattr(found, name)[0] for found in of_b], axis=0)
        np.testing.assert_allclose(mine[f"{column}_excess"], expected, atol=1e-12)


@pytest.fixture
def planted():
    """Scores and standard deviations of two seeds with two layers of four neurons."""
    keys = pd.MultiIndex.from_product(
        [["a", "b"], [0, 1], range(4)], names=["seed", "layer", "neuron"]
    ).to_frame(index=False)
    # Layer 0 of a: one neuron is all; of b: four alike. Layer 1: two alike, two dead.
    std = [1e3, 0, 0, 0, 2, 2, 0, 0, 3, 3, 3, 3, 1e-3, 0, 1e-3, 0]
    first = [0.6] * 4 + [0.4] * 4 + [0.6, 0.6, 0.4, 0.4] + [0.4] * 4
    other = [0.6, 0.6, 0.6, 0.4] + [0.4] * 4 + [0.4, 0.6, 0.6, 0.4] + [0.4] * 4
    scores = keys.assign(threshold=0.5, first_rotation_excess=first, other_choice_excess=other)
    return scores, keys.assign(std=std)


def test_the_report_counts_the_neurons_that_a_rotation_mixes_and_where_the_choices_differ(planted):
    found = baseline_by_layer(*planted).set_index("layer")
    assert found.loc[0, ["effective", "least", "most"]].tolist() == pytest.approx([2.5, 1, 4])
    assert found.loc[1, ["effective", "least", "most"]].tolist() == pytest.approx([2, 2, 2])
    assert found.loc[0, ["universal", "other"]].tolist() == [6, 5]
    # Three and one in both; four and three in either.
    assert found.loc[[ALL_LAYERS, 0], "jaccard"].tolist() == pytest.approx([4 / 7, 4 / 7])
    assert np.isnan(found.loc[1, "jaccard"]), "no universal neuron by either"
    text = baseline_remark(found.reset_index(), {})
    assert "in effect a mixture of 1.0 to 4.0 of 4 neurons of a layer" in text
    assert "6 neurons of all seeds are universal by this choice, 5 by the other" in text
    assert "Jaccard index of the two sets is 0.57" in text


def test_without_the_other_choice_the_report_gives_no_jaccard_index(planted):
    scores, neurons = planted
    found = baseline_by_layer(scores.assign(other_choice_excess=np.nan), neurons)
    assert found[["other", "jaccard"]].isna().all().all()
    text = baseline_remark(found, {"baseline": {"standardise": True}})
    assert "divided by their standard deviation before they are rotated" in text
    assert "screened mode does not compute" in text
