"""Control sets match the universal neurons one to one in layer, size and sparsity."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline import gpt2

from universal_neurons.ablate.controls import (
    SIZE_CALIPER,
    SPARSITY_CALIPER,
    is_comparable,
    matched_controls,
    output_norms,
)
from universal_neurons.ablate.subject import Subject


def match(universal, size, sparsity=None, layer=None, *, draws=20, seed="a", step=1, random_seed=0):
    n = len(universal)
    return matched_controls(
        universal,
        size,
        np.full(n, 0.5) if sparsity is None else sparsity,
        np.zeros(n, np.int64) if layer is None else layer,
        draws=draws,
        seed=seed,
        step=step,
        random_seed=random_seed,
    )


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.integers(0, 25), st.integers(0, 40)), min_size=1, max_size=4
    ).filter(lambda sizes: sum(map(sum, sizes)) > 0),
    dead=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_controls_are_as_many_other_neurons_of_the_same_layers(sizes, dead, seed):
    rng = np.random.default_rng(seed)
    layer = np.repeat(np.arange(len(sizes)), [sum(size) for size in sizes])
    universal = np.concatenate([rng.permutation(np.arange(sum(size)) < size[0]) for size in sizes])
    norm = np.exp(rng.normal(size=len(layer))) * (rng.random(len(layer)) > dead)
    drawn = match(universal, norm, layer=layer, draws=3)
    assert len(drawn.sets) == 3
    assert set(drawn.overlap) == {one for one, (own, _) in enumerate(sizes) if own}
    for control in drawn.sets:
        assert (np.diff(control) > 0).all()
        assert not universal[control].any()
        for one, (own, others) in enumerate(sizes):
            here = control[layer[control] == one]
            assert len(here) == min(own, others)
            active = (~universal & (layer == one) & (norm > 0)).sum()
            if active >= own:
                assert (norm[here] > 0).all()


def skewed(n=1000, seed=0):
    """Neurons of which the large are more often universal, and others of every size."""
    rng = np.random.default_rng(seed)
    log_size = rng.normal(size=n)
    universal = rng.random(n) < 0.25 / (1 + np.exp(-3 * log_size))
    return universal, np.exp(log_size)


def partners(universal, size, control):
    """The largest gap of log size in the best pairing of a set with the universal neurons."""
    return np.abs(np.log(np.sort(size[universal])) - np.log(np.sort(size[control])))


def test_summed_squared_sizes_are_those_of_the_universal_neurons():
    # What the loss follows to leading order. Drawn from the 20 nearest neighbours, as once, the
    # sets of this world have 0.86 of it on average.
    universal, size = skewed()
    energy = size[universal] @ size[universal]
    drawn = match(universal, size)
    ratios = [size[one] @ size[one] / energy for one in drawn.sets]
    assert drawn.overlap[0] > 0.95
    assert np.mean(ratios) == pytest.approx(1, abs=0.04)


def test_every_neuron_has_a_partner_within_the_caliper_where_there_is_one():
    rng = np.random.default_rng(3)
    size, logit = np.exp(rng.normal(size=40)), rng.normal(size=40)
    universal = np.repeat([True, False], [40, 400])
    # Ten copies of each, moved by less than the calipers.
    near = rng.uniform(-0.9, 0.9, (2, 400))
    size = np.concatenate([size, np.tile(size, 10) * np.exp(SIZE_CALIPER * near[0])])
    logit = np.concatenate([logit, np.tile(logit, 10) + SPARSITY_CALIPER * near[1]])
    drawn = match(universal, size, 1 / (1 + np.exp(-logit)))
    assert drawn.overlap[0] == 1
    for control in drawn.sets:
        assert partners(universal, size, control).max() <= SIZE_CALIPER


def test_a_universal_neuron_without_a_like_takes_its_size_from_the_overlap():
    universal = np.repeat([True, False], [5, 100])
    size = np.r_[1, 1, 1, 1, 4, np.ones(100)]
    drawn = match(universal, size)
    assert drawn.overlap[0] == pytest.approx(4 / 20)
    assert not is_comparable(drawn.overlap[0], 1.0)
    # As many all the same: the fifth takes the nearest there is.
    assert all(len(control) == 5 for control in drawn.sets)
    sparse = match(universal, np.ones(105), np.r_[0.5, 0.5, 0.5, 0.5, 0.01, np.full(100, 0.5)])
    assert sparse.overlap[0] == pytest.approx(4 / 5)


def test_the_assignment_is_optimal_where_greedy_choice_leaves_one_without_a_partner():
    # Both are near the first of the others, only the first of the two near the second.
    gap = 0.9 * SIZE_CALIPER
    universal = np.array([True, True, False, False])
    size = np.exp([0.0, gap, 0.5 * gap, -gap])
    assert match(universal, size).overlap[0] == 1


def test_control_draws_differ_as_far_as_there_are_partners():
    universal, size = skewed()
    assert len({tuple(control) for control in match(universal, size).sets}) == 20
    one = np.arange(1000) == np.flatnonzero(universal)[0]
    near = np.abs(np.log(size / size[one])) <= SIZE_CALIPER
    assert near.sum() > 40
    drawn = {tuple(control) for control in match(one, size).sets}
    assert len(drawn) == 20
    assert all(near[list(control)].all() for control in drawn)


def test_controls_depend_on_the_model_the_layer_and_the_random_seed_alone():
    universal, size = skewed()

    def draw(draws=2, layer=0, **names):
        layers = np.full(len(size), layer)
        return match(universal, size, layer=layers, draws=draws, **names).sets[0].tolist()

    first = draw()
    assert draw() == draw(draws=5) == first
    for other in (draw(seed="b"), draw(step=2), draw(random_seed=1), draw(layer=1)):
        assert other != first


def test_too_few_other_neurons_give_smaller_controls_and_a_warning(caplog):
    universal = np.array([True, True, True, False, False, True, False, False])
    layer = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    with caplog.at_level(logging.WARNING):
        drawn = match(universal, np.ones(8), layer=layer, draws=2, step=7)
    assert all(control[:2].tolist() == [3, 4] and len(control) == 3 for control in drawn.sets)
    assert drawn.overlap == pytest.approx({0: 2 / 3, 1: 1})
    assert drawn.least_overlap == pytest.approx(2 / 3)
    assert "seed a, step 7, layer 0: 3 of 5 neurons are universal" in caplog.text


def test_controls_match_size_and_sparsity_at_once():
    rng = np.random.default_rng(0)
    n = 2000
    size, logit = rng.normal(size=(2, n))
    universal = rng.random(n) < 0.2 / (1 + np.exp(-2 * (size + logit)))
    drawn = match(universal, np.exp(size), 1 / (1 + np.exp(-logit)), draws=10)
    for values in (size, logit):
        gap = values[universal].mean() - values[~universal].mean()
        assert gap > 0.5, "the test must not be vacuous"
        for control in drawn.sets:
            assert abs(values[universal].mean() - values[control].mean()) < 0.2 * gap


def test_what_ablation_changes_is_measured_on_each_neurons_own_activations():
    rng = np.random.default_rng(0)
    model = gpt2(0)
    mean, std = rng.normal(size=80), np.exp(rng.normal(size=80))
    lengths = [
        np.linalg.norm(projection.weight[i].numpy())
        for projection in model.projections
        for i in range(40)
    ]
    np.testing.assert_allclose(output_norms(model), lengths, rtol=1e-6)
    subject = Subject(model, "a", 1, mean, std, np.full(80, 0.5))
    x, other = mean + std * rng.normal(size=(2, 200_000, 80))
    changes = {"mean": x - mean, "zero": x, "resample": x - other}
    for kind, change in changes.items():
        expected = np.sqrt((change**2).mean(0)) * lengths
        np.testing.assert_allclose(subject.perturbation(kind), expected, rtol=0.02)
    np.testing.assert_allclose(subject.contribution, subject.perturbation("zero"))
