"""Compile what Numba compiles before the first run: `python -m universal_neurons.commands.compile`.

It is kept beside the package. Without it each of the jobs that start first takes seconds for it.
"""

from __future__ import annotations

import numpy as np
import torch

from universal_neurons.activations.calibration import Calibration
from universal_neurons.activations.class_sums import LayerSums, groups_of
from universal_neurons.activations.codes import Codes
from universal_neurons.activations.encoding import Ranges
from universal_neurons.activations.kernels import add_products
from universal_neurons.activations.rounding import Dither
from universal_neurons.capture.layer_pass import LayerPass
from universal_neurons.correlate.matches import Matches
from universal_neurons.correlate.sample import code_sums

TOKENS, NEURONS = 64, 8


def compile_kernels() -> None:
    """Call what capturing and comparing int8 codes call, on a few tokens.

    With one activation that is beyond its code's range, for what is done with escapes.
    """
    x = torch.linspace(-1, 1, TOKENS * NEURONS).reshape(TOKENS, NEURONS)
    x[0, 0] = 1000
    of_codes = Ranges(np.full(NEURONS, 0.01, np.float32), np.zeros(NEURONS, np.float32))
    cpu, index = torch.device("cpu"), np.arange(TOKENS)
    layer = LayerPass(
        Calibration(of_codes, np.zeros(NEURONS)), Dither("", 0, 0, NEURONS, cpu), "int8", cpu
    )
    captured = layer.add(x, torch.from_numpy(index), index)
    assert captured is not None
    codes = Codes(captured.dense.numpy(), captured.escapes)
    sums = np.zeros((NEURONS, NEURONS), np.int64)
    for kernel in ("int8", "float32"):
        add_products(sums, codes, codes, kernel)
    code_sums(codes)
    tokens = index[None]
    groups = groups_of(tokens, tokens, np.zeros(1, int), index)
    LayerSums(groups, NEURONS, "int8").add(codes.dense, 0)
    neurons, corr = np.arange(NEURONS), sums.astype(np.float64)
    found = [Matches.nothing(NEURONS, 1) for _ in range(2)]
    for matches, tile in zip(found, (corr, corr.T), strict=True):
        matches.take(tile, neurons, neurons)
    found[0].update(found[1])


if __name__ == "__main__":
    compile_kernels()
