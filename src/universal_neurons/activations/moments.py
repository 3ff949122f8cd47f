"""Exact moments of every neuron, in float64, as sums that merge by addition.

Power sums are taken about a centre near the neuron's mean, fixed by the calibration and so common
to all shards: the differences below then lose no digits to cancellation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.store.arrays import attributes_of, read_arrays

Sums = Mapping[str, NDArray]


def merge(parts: Iterable[Sums]) -> dict[str, NDArray]:
    """Add the sums of shards.

    Each part maps ``n_tokens`` (scalar), ``centre``, ``scale``, ``powers`` (4, N), ``low``,
    ``high``, ``positive``, ``escapes``, ``code_sum`` and ``first_tokens`` (N,) and ``first_powers``
    (2, N), of the tokens at position 0, to arrays over the N neurons of a
    model; with the S subsets of a corpus also ``subset_tokens``, ``subset_positive`` (S, N) and
    ``subset_powers`` (2, S, N).

    Raises
    ------
    ValueError
        If the parts were taken about different centres.
    """
    parts = list(parts)
    shared = {key: parts[0][key] for key in ("centre", "scale")}
    if any(not np.array_equal(shared[key], part[key]) for key in shared for part in parts):
        raise ValueError("shards of different calibrations can't be merged")
    total: dict[str, NDArray] = {
        key: np.sum([part[key] for part in parts], axis=0)
        for key in set(parts[0]) - {"low", "high", *shared}
    }
    total["low"] = np.min([part["low"] for part in parts], axis=0)
    total["high"] = np.max([part["high"] for part in parts], axis=0)
    return total | shared


def read(stores: Iterable[str | Path]) -> dict[tuple[int, str], tuple[dict[str, Any], Sums]]:
    """Read and add the moments of all shards of several models.

    Parameters
    ----------
    stores
        As `capture.capture` writes them.

    Returns
    -------
    dict
        By (step, seed), sorted: the attributes of a shard, and the added sums.
    """
    shards: dict[tuple[int, str], list[Sums]] = {}
    about: dict[tuple[int, str], dict[str, Any]] = {}
    for path in stores:
        attributes = attributes_of(path)
        model = attributes["step"], attributes["seed"]
        shards.setdefault(model, []).append(read_arrays(path))
        about[model] = attributes
    return {model: (about[model], merge(shards[model])) for model in sorted(shards)}


def std(sums: Sums) -> NDArray[np.float64]:
    """Population standard deviation of every neuron; exactly 0 for a dead (constant) one."""
    first, second = sums["powers"][:2] / sums["n_tokens"]
    return np.where(dead(sums), 0.0, np.sqrt(np.maximum(second - first**2, 0.0)))


def dead(sums: Sums) -> NDArray[np.bool_]:
    """Which neurons had one and the same value at every scored token."""
    return sums["low"] == sums["high"]


def rms(sums: Sums) -> NDArray[np.float64]:
    """Root mean square activation of every neuron."""
    return np.hypot(sums["centre"] + sums["powers"][0] / sums["n_tokens"], std(sums))


def moments(sums: Sums) -> dict[str, NDArray]:
    """Moments of every neuron from merged sums.

    Returns
    -------
    dict
        Arrays of shape (N,): ``mean``, ``std`` (population), ``skewness`` and ``kurtosis`` (third
        and fourth standardised moments, so a normal distribution has kurtosis 3; NaN for a dead
        neuron), ``sparsity`` (fraction of tokens with an activation above 0), ``min``, ``max``,
        ``dead``, ``escapes`` (number of values beyond the int8 range, none of them cut),
        ``effective_tokens`` ((Σ z²)² / Σ z⁴ of the standardised activations z: the number of tokens
        that a correlation rests on; 0 for a dead neuron).
    """
    first, second, third, fourth = sums["powers"] / sums["n_tokens"]
    spread = std(sums)
    # Central moments from moments about the centre (binomial theorem).
    central3 = third - 3 * first * second + 2 * first**3
    central4 = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    with np.errstate(invalid="ignore", divide="ignore"):
        skewness, kurtosis = central3 / spread**3, central4 / spread**4
    is_dead = dead(sums)
    skewness[is_dead] = kurtosis[is_dead] = np.nan
    return {
        "mean": np.where(is_dead, sums["low"], sums["centre"] + first),
        "std": spread,
        "skewness": skewness,
        "kurtosis": kurtosis,
        "sparsity": sums["positive"] / sums["n_tokens"],
        "min": sums["low"].astype(np.float64),
        "max": sums["high"].astype(np.float64),
        "dead": is_dead,
        "escapes": sums["escapes"],
        "effective_tokens": np.where(is_dead, 0.0, sums["n_tokens"] / kurtosis),
    }


def effective_tokens(stores: Iterable[str | Path]) -> NDArray[np.float64]:
    """``effective_tokens`` of all models in some stores, one after the other as `read` has them."""
    return np.concatenate([moments(sums)["effective_tokens"] for _, sums in read(stores).values()])


def first_position_share(sums: Sums) -> NDArray[np.float64]:
    """Share of every neuron's variance that is of the tokens at position 0; 0 for a dead neuron.

    That is Σ (x − mean)² over these tokens, divided by the sum over all scored ones.
    """
    mean = sums["powers"][0] / sums["n_tokens"]
    first, second = sums["first_powers"]
    # Squares about the mean from squares about the centre.
    own = second - 2 * mean * first + sums["first_tokens"] * mean**2
    total = sums["n_tokens"] * std(sums) ** 2
    share = np.divide(own, total, out=np.zeros_like(total), where=total > 0)
    return share.clip(0, 1)


def rounding_se(sums: Sums, encoding: str) -> NDArray[np.float64]:
    """Standard error that the rounding of a neuron's codes adds to its correlations.

    Stochastic rounding to steps s has the variance s² f (1 − f), f the place between two codes, so
    s² / 6 on average, and is independent from token to token and between models. A correlation
    with any other neuron then has the error (s / σ) / √(6 n), where that neuron's own rounding
    comes on top in squares. The float encodings round to nearest in steps of at most 2⁻⁷ (bfloat16)
    or 2⁻²³ of an activation x, whose variance is s² / 12.

    Parameters
    ----------
    sums
        Merged sums.
    encoding
        One of `encoding.ENCODINGS`.

    Returns
    -------
    NDArray
        Shape (N,); 0 for a dead neuron.
    """
    if encoding == "int8":
        error = sums["scale"] / np.sqrt(6)
    else:
        error = {"bfloat16": 2.0**-7, "float32": 2.0**-23}[encoding] * rms(sums) / np.sqrt(12)
    spread = std(sums)
    relative = np.divide(error, spread, out=np.zeros_like(spread), where=spread > 0)
    return relative / np.sqrt(sums["n_tokens"])
