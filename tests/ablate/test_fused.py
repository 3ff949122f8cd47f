"""Steps in one reading are torch's in several."""

import torch
from torch.nn import functional

from universal_neurons.ablate.fused import gelu, narrow_difference, wide_sum

SHAPE = 3, 5, 37


def made(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_differences_are_rounded_to_the_nearest_bfloat16_as_torch_rounds():
    x, clean = made(0), made(1)
    # Halfway between two bfloat16: the even one.
    x[0, 0, :2], clean[0, 0, :2] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8]), 0
    assert (narrow_difference(x, clean) == (x - clean).bfloat16()).all()
    assert (
        narrow_difference(x.transpose(0, 1), clean.transpose(0, 1)).transpose(0, 1)
        == (x - clean).bfloat16()
    ).all()


def test_sums_of_bfloat16_and_float32_are_exact():
    x, clean = made(0).bfloat16(), made(1)
    assert (wide_sum(x, clean) == x.float() + clean).all()


def test_gelu_is_that_of_float64():
    x = torch.cat([100 * made(0), made(1), 1e-6 * made(2)])
    exact = functional.gelu(x.double(), approximate="tanh")
    torch.testing.assert_close(gelu(x).double(), exact, rtol=1e-6, atol=1e-6)
