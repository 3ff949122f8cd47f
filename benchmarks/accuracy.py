"""Errors of correlations, as the worst over neurons of very different units, rarity and tails.

Planted pairs of two models, against float64: by every encoding, by the procedure published with
2401.12181 and as a user would write it, float32 products and an argmax.

    python benchmarks/accuracy.py
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.activations.calibration import Calibration
from universal_neurons.activations.encoding import ranges
from universal_neurons.activations.rounding import Dither, stored
from universal_neurons.capture.layer_pass import LayerPass
from universal_neurons.capture.power_sums import SampleSums

CPU = torch.device("cpu")
# Scored tokens that fix the int8 ranges, as by default.
CALIBRATION = 16384


def calibration_of(x: torch.Tensor) -> Calibration:
    """Codes of a layer from a sample of its activations, as a run would fix them."""
    sums = SampleSums(x.shape[1], len(x), CPU)
    sums.update(x)
    sample = sums.sample()
    return Calibration(ranges(sample, encoding="int8", headroom=0.5), sample.mean)


def planted(n_tokens: int, d: int, seed: int = 1) -> list[torch.Tensor]:
    """Activations of two models, neuron i of one like neuron i of the other, more or less.

    Half are GELUs of a normal variable, a quarter fire at one token in 10,000 and murmur elsewhere,
    a quarter have the tails of Student's t with three degrees of freedom; in units of 1e-3 to 1e3.
    """
    rng = np.random.default_rng(seed)
    shared, fires = rng.standard_normal((n_tokens, d)), rng.random((n_tokens, d)) < 1e-4
    found = []
    for _ in "ab":
        x = 0.8 * shared + 0.6 * rng.standard_normal((n_tokens, d))
        x[:, : d // 2] = torch.nn.functional.gelu(torch.from_numpy(x[:, : d // 2])).numpy()
        rare, heavy = slice(d // 2, 3 * d // 4), slice(3 * d // 4, d)
        x[:, rare] = 0.01 * x[:, rare] + fires[:, rare] * (5 + np.abs(x[:, rare]))
        x[:, heavy] /= np.sqrt(rng.chisquare(3, (n_tokens, d - 3 * d // 4)) / 3)
        found.append(torch.from_numpy((x * 10 ** rng.uniform(-3, 3, d)).astype(np.float32)))
    return found


def by_codes(xs: list[torch.Tensor], encoding: str) -> NDArray[np.float64]:
    """Correlations as a run has them: sums of codes, and the activations' own deviations."""
    standard = []
    for which, x in zip("ab", xs, strict=True):
        if encoding == "int8":
            calibration = calibration_of(x[:CALIBRATION])
            layer = LayerPass(calibration, Dither(which, 0, 0, x.shape[1], CPU), "int8", CPU)
            codes = layer.add(x, torch.arange(len(x)), np.arange(len(x))).whole()
            values = codes.astype(np.float64) * calibration.ranges.scale
        else:
            values = stored(x, encoding).double().numpy()
        values -= values.mean(0)
        standard.append(values / x.double().std(0, correction=0).numpy())
    return standard[0].T @ standard[1] / len(xs[0])


def published(xs: list[torch.Tensor], batch: int = 16384) -> NDArray[np.float64]:
    """The published procedure's: float16 activations, float32 sums of a batch, float64 of all."""
    d, n = xs[0].shape[1], len(xs[0])
    products, sums = (
        torch.zeros(d, d, dtype=torch.float64),
        torch.zeros(2, 2, d, dtype=torch.float64),
    )
    for start in range(0, n, batch):
        one, other = (x[start : start + batch].half().float() for x in xs)
        for total, x in zip(sums, (one, other), strict=True):
            total[0] += x.sum(0)
            total[1] += (x**2).sum(0)
        products += one.T @ other
    mean, square = sums[:, 0] / n, sums[:, 1] / n
    std = (square - mean**2).sqrt()
    return ((products / n - torch.outer(*mean)) / torch.outer(*std)).numpy()


def by_hand(xs: list[torch.Tensor]) -> NDArray[np.float64]:
    """As a user would write it, all in float32."""
    standard = [(x - x.mean(0)) / x.std(0, correction=0) for x in xs]
    return (standard[0].T @ standard[1] / len(xs[0])).double().numpy()


def accuracy(n_tokens: int = 200_000, d: int = 256) -> dict[str, float]:
    """Worst and root mean square error, best matches that are wrong, and neurons lost (NaN)."""
    xs = planted(n_tokens, d)
    truth = np.corrcoef(*(x.double().numpy().T for x in xs))[:d, d:]
    ways = {name: by_codes(xs, name) for name in ("int8", "bfloat16", "float32")}
    ways |= {"published": published(xs), "by_hand": by_hand(xs)}
    found: dict[str, float] = {}
    for name, corr in ways.items():
        known, theirs = (np.isfinite(corr).any(axis) for axis in (1, 0))
        error = np.abs(corr - truth)[np.isfinite(corr)]
        found[f"error_max_{name}"] = float(error.max())
        found[f"error_rms_{name}"] = float(np.sqrt(np.mean(error**2)))
        best = np.where(np.isnan(corr), -np.inf, corr).argmax(1)
        found[f"wrong_matches_{name}"] = int((best != truth.argmax(1))[known].sum())
        found[f"lost_neurons_{name}"] = int((~known).sum() + (~theirs).sum())
    return found


if __name__ == "__main__":
    for name, value in accuracy().items():
        print(f"{name:28} {value:.4g}")
