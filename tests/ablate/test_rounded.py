"""Maps in int8 are the maps, to a hundredth of the change."""

import pytest
import torch

from universal_neurons.ablate import rounded
from universal_neurons.ablate.rounded import Int8Map, multiply, to_int8


@pytest.mark.parametrize("rows", [(1,), (40,), (3, 50)])
@pytest.mark.parametrize("outlier", [1.0, 1000.0])
def test_what_is_returned_changes_as_in_float32_to_a_hundredth_of_the_change(rows, outlier):
    """Also of a single row, and where one input is far larger than all others."""
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(70, 48, generator=rng)
    taken, x = torch.randn(2, *rows, 48, generator=rng)
    matrix[:, 5] /= outlier
    taken[..., 5], x[..., 5] = taken[..., 5] * outlier, x[..., 5] * outlier
    returned = torch.randn(*rows, 70, generator=rng)
    found = Int8Map(matrix).changed(taken, returned, x)
    change = ((x - taken).double() @ matrix.double().T).square().mean().sqrt()
    exact = returned.double() + (x - taken).double() @ matrix.double().T
    assert (found - exact).square().mean().sqrt() < 0.015 * change


def test_what_does_not_change_is_as_it_was():
    x, returned = torch.randn(2, 4, 8)
    assert (Int8Map(torch.randn(8, 8)).changed(x, returned, x) == returned).all()


def test_codes_are_whole_steps_of_a_row_whose_largest_is_127():
    x = torch.tensor([[1.27, -0.01, 0.0], [0.0, 0.0, 0.0], [-254.0, 3.0, 4.0]])
    codes, scales = to_int8(x)
    assert codes.tolist() == [[127, -1, 0], [0, 0, 0], [-127, 2, 2]]
    torch.testing.assert_close(scales, torch.tensor([0.01, 0.0, 2.0]))
    assert multiply(codes, codes.T.contiguous()).diag().tolist() == [127**2 + 1, 0, 127**2 + 8]


@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_what_a_gpu_adds_up_is_what_the_cpu_does(spread):
    """The sum by its reference, which either may raise."""
    rng = torch.Generator().manual_seed(0)
    log_p = torch.randn(6, 30, generator=rng)
    log_p[0, 3] = -torch.inf
    products = torch.randint(-100, 100, (6, 30), dtype=torch.int32, generator=rng)
    scales, columns = torch.full((6,), 0.01 * spread), torch.ones(30)
    threshold = torch.randn(6, generator=rng)
    found = []
    for add in (rounded.add_softmax, rounded._add_softmax_on_device):
        reference, total, above = threshold.clone(), torch.ones(6), torch.zeros(6)
        add(log_p, products, scales, columns, threshold, reference, total, above)
        found.append((total.log() + reference, above))
    torch.testing.assert_close(*found)
