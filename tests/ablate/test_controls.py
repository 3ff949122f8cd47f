"""Control sets match the universal neurons in layer, count, contribution and sparsity."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline import gpt2

from universal_neurons.ablate.controls import contribution, matched_controls


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
    drawn = matched_controls(
        universal, norm, np.full(len(norm), 0.5), layer, draws=3, seed="a", step=1
    )
    assert len(drawn) == 3
    for control in drawn:
        assert (np.diff(control) > 0).all()
        assert not universal[control].any()
        for one, (own, others) in enumerate(sizes):
            here = control[layer[control] == one]
            assert len(here) == min(own, others)
            active = (~universal & (layer == one) & (norm > 0)).sum()
            if active >= own:
                assert (norm[here] > 0).all()


def skewed(n=1000, seed=0):
    """Neurons of one layer of which the large are more often universal."""
    rng = np.random.default_rng(seed)
    log_norm = rng.normal(size=n)
    universal = rng.random(n) < 0.15 / (1 + np.exp(-3 * log_norm))
    return universal, np.exp(log_norm), np.zeros(n, np.int64)


def test_controls_have_the_norms_of_the_universal_neurons():
    universal, norm, layer = skewed()
    wanted = np.sort(np.log(norm[universal]))
    rng = np.random.default_rng(1)

    def distance(chosen):
        return np.abs(np.sort(np.log(norm[chosen])) - wanted).mean()

    for control in matched_controls(
        universal, norm, np.full(len(norm), 0.5), layer, draws=20, seed="a", step=1
    ):
        chance = rng.choice(np.flatnonzero(~universal), universal.sum(), replace=False)
        assert distance(control) < 0.25 * distance(chance)
        assert norm[control].mean() == pytest.approx(norm[universal].mean(), rel=0.15)


def test_control_draws_differ_even_for_one_universal_neuron():
    universal, norm, layer = skewed()
    drawn = matched_controls(
        universal, norm, np.full(len(norm), 0.5), layer, draws=20, seed="a", step=1
    )
    assert len({tuple(control) for control in drawn}) == 20
    one = np.arange(1000) == np.flatnonzero(universal)[0]
    drawn = matched_controls(one, norm, np.full(len(norm), 0.5), layer, draws=20, seed="a", step=1)
    assert len({tuple(control) for control in drawn}) >= 8


def test_controls_depend_on_the_model_the_layer_and_the_random_seed_alone():
    universal, norm, layer = skewed()

    def draw(draws=2, seed="a", step=1, random_seed=0, layer=layer):
        sets = matched_controls(
            universal,
            norm,
            np.full(len(norm), 0.5),
            layer,
            draws=draws,
            seed=seed,
            step=step,
            random_seed=random_seed,
        )
        return sets[0].tolist()

    first = draw()
    assert draw() == draw(draws=5) == first
    for other in (
        draw(seed="b"),
        draw(step=2),
        draw(random_seed=1),
        draw(layer=layer + 1),
    ):
        assert other != first
    # Fixed by SHA-256 and not by Python's hash, which changes from process to process.
    assert first[:5] == [2, 21, 25, 31, 34]


def test_too_few_other_neurons_give_smaller_controls_and_a_warning(caplog):
    universal = np.array([True, True, True, False, False, True, False, False])
    layer = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    with caplog.at_level(logging.WARNING):
        drawn = matched_controls(
            universal, np.ones(8), np.full(8, 0.5), layer, draws=2, seed="a", step=7
        )
    assert all(control[:2].tolist() == [3, 4] and len(control) == 3 for control in drawn)
    assert "seed a, step 7, layer 0: 3 of 5 neurons are universal" in caplog.text


def test_controls_match_contribution_and_sparsity_at_once():
    rng = np.random.default_rng(0)
    n = 2000
    size, logit = rng.normal(size=(2, n))
    universal = rng.random(n) < 0.2 / (1 + np.exp(-2 * (size + logit)))
    sparsity = 1 / (1 + np.exp(-logit))
    layer = np.zeros(n, np.int64)
    drawn = matched_controls(universal, np.exp(size), sparsity, layer, draws=10, seed="a", step=1)
    for values in (size, logit):
        gap = values[universal].mean() - values[~universal].mean()
        assert gap > 0.5, "the test must not be vacuous"
        for control in drawn:
            assert abs(values[universal].mean() - values[control].mean()) < 0.25 * gap


def test_contribution_is_the_length_of_what_a_neuron_writes():
    model = gpt2(0)
    norm = np.arange(80.0)
    expected = [
        norm[40 * layer + i] * np.linalg.norm(projection.weight[i].numpy())
        for layer, projection in enumerate(model.projections)
        for i in range(40)
    ]
    np.testing.assert_allclose(contribution(model, norm), expected, rtol=1e-6)
