"""Attention by differences is attention, as accurately as the change is small."""

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from universal_neurons.ablate import attention
from universal_neurons.ablate.attention import NAME, Attention

SEQUENCES, HEADS, LENGTH, WIDTH = 2, 4, 150, 8
PADDING = torch.arange(LENGTH).expand(SEQUENCES, 1, LENGTH, LENGTH) < LENGTH - 20
BIAS = torch.linspace(-3, 0, LENGTH).expand(SEQUENCES, 1, LENGTH, LENGTH)


def made(rng, heads=HEADS):
    return torch.randn(SEQUENCES, heads, LENGTH, WIDTH, generator=rng)


def twice(change, *, causal=True, mask=None, groups=1, again=False):
    """Outputs clean, changed, and changed by differences, float64."""
    rng = torch.Generator().manual_seed(0)
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = causal, groups
    shared = HEADS // groups
    clean = made(rng), made(rng, shared), made(rng, shared)
    changed = [x + change * made(rng, x.shape[1]) for x in clean]
    attend = Attention()
    with attend.recording():
        for _ in range(1 + again):
            before, _ = ALL_ATTENTION_FUNCTIONS[NAME](module, *clean, mask)
    exact, _ = ALL_ATTENTION_FUNCTIONS[NAME](module, *changed, mask)
    with attend.running():
        found, _ = ALL_ATTENTION_FUNCTIONS[NAME](module, *changed, mask)
    return [x.double().numpy() for x in (before, exact, found)]


@pytest.mark.parametrize("change", [1e-3, 0.03, 0.3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": False},
        {"groups": 2},
        {"causal": False, "mask": PADDING},
        {"causal": False, "mask": BIAS},
        {"causal": False, "mask": PADDING & (torch.arange(LENGTH)[:, None] < 128)},
    ],
)
def test_outputs_change_as_they_do_in_float32_within_some_thousandths_of_the_change(
    change, options
):
    clean, exact, found = twice(change, **options)
    error, size = (np.sqrt(np.square(x - exact).mean()) for x in (found, clean))
    assert error > 0, "float32 must not be what is tested"
    assert error < 0.006 * size


def test_what_does_not_change_is_as_it_was():
    clean, _, found = twice(0)
    assert (clean == found).all()


@pytest.mark.parametrize("options", [{"change": 10.0}, {"change": 0.1, "again": True}])
def test_scores_that_change_much_and_modules_that_ran_twice_are_in_float32(options):
    _, exact, found = twice(**options)
    assert (found == exact).all()


def test_a_module_that_makes_more_of_its_scores_is_in_float32(monkeypatch):
    """As one that bounds them would: its output is not that of the weights as they are known."""
    weights = attention._weights
    monkeypatch.setattr(attention, "_weights", lambda *args: weights(*args).roll(1, -1))
    _, exact, found = twice(0.1)
    assert (found == exact).all()
