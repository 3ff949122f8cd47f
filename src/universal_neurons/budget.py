"""Were the tokens enough? Scores of a sample of neurons from part of the shards.

Partial sums add up shard by shard, so their running totals hold the sums of fewer tokens: of the
first half of the shards, the first quarter and so on. The rest of the shards beside the first half
is a second measurement on other tokens, and the two halves say how reliable a score is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from universal_neurons.correlation import Neurons, mean_over_others, standardised
from universal_neurons.products import tile_name
from universal_neurons.store import Added, attributes_of, read_arrays

# A convention: the Jaccard index of half the tokens with all, and the reliability, that say that
# more tokens would change little.
ENOUGH = 0.9

COLUMNS = [
    *("step", "seed", "part", "n_shards", "n_tokens", "n_neurons", "n_universal"),
    *("jaccard", "rank_corr", "corr", "reliability"),
]


def shard_ranges(n_shards: int) -> list[tuple[int, int]]:
    """First shard of every point and the one after its last.

    The first … quarter and half of the shards, then all, then the second half; nothing of a single
    shard.
    """
    if n_shards == 1:
        return []
    nested = [n_shards >> i for i in reversed(range(n_shards.bit_length()))]
    return [*((0, stop) for stop in nested), (n_shards // 2, n_shards)]


def sampled(d_mlp: int) -> NDArray[np.int64]:
    """Which neurons of a layer are scored: a sixteenth, or 64 if that is more, evenly spaced."""
    n = min(d_mlp, max(64, d_mlp // 16))
    return np.arange(n) * d_mlp // n


class Budget:
    """Best matches and baseline of a pair's sampled neurons at every point.

    They are found among all neurons of the other model, with the first rotation alone; its weights
    and spread are those of all tokens at every point.

    Parameters
    ----------
    sums
        The partial sums of all shards, two or more.
    ranges
        Of the points, as `shard_ranges` returns them.
    a, b
        The two models at every point.

    Attributes
    ----------
    forward, backward
        Largest correlation and largest with rotated neurons, of the sampled neurons of `a` among
        those of `b` and the reverse, float64, shape (2, points, n); −∞ until `total` was asked for
        a tile with them.
    """

    def __init__(
        self,
        sums: Added,
        ranges: Sequence[tuple[int, int]],
        a: Sequence[Neurons],
        b: Sequence[Neurons],
    ) -> None:
        self._sums, self._ranges, self._a, self._b = sums, ranges, a, b
        self.forward, self.backward = (
            np.full((2, len(ranges), sum(len(sampled(d)) for d in models[0].d_mlp)), -np.inf)
            for models in (a, b)
        )

    def total(
        self,
        i: int,
        j: int,
        rotated_a: NDArray[np.float32],
        rotated_b: NDArray[np.float32],
    ) -> NDArray:
        """Sums over all shards of layer i of `a` and j of `b`; scores the points on the way.

        Parameters
        ----------
        i, j
            The layers.
        rotated_a, rotated_b
            Their first rotation, see `correlation.Baseline.matrices`.
        """
        rows, columns = sampled(self._a[0].d_mlp[i]), sampled(self._b[0].d_mlp[j])
        edges = {edge for edges in self._ranges for edge in edges}
        nothing = np.zeros((), np.int64)
        ahead, back = {0: nothing}, {0: nothing}
        for n_shards, total in enumerate(self._sums.running(tile_name(i, j)), start=1):
            if n_shards in edges:
                ahead[n_shards], back[n_shards] = total[rows], total[:, columns].T
        self._score(self.forward, ahead, self._a, i, self._b, j, rotated_b)
        self._score(self.backward, back, self._b, j, self._a, i, rotated_a)
        return total

    def _score(
        self,
        found: NDArray[np.float64],
        running: Mapping[int, NDArray],
        mine: Sequence[Neurons],
        layer: int,
        theirs: Sequence[Neurons],
        other: int,
        rotated: NDArray[np.float32],
    ) -> None:
        """Take in one model's sampled neurons of a layer among those of another's layer."""
        d_mlp = mine[0].d_mlp
        own, first = sampled(d_mlp[layer]), sum(len(sampled(d)) for d in d_mlp[:layer])
        products = [running[stop] - running[start] for start, stop in self._ranges]
        corr = np.stack(
            [
                standardised(p, x, x.layers[layer].start + own, y, y.layers[other])
                for p, x, y in zip(products, mine, theirs, strict=True)
            ]
        )
        # One product for all points.
        flat = corr.astype(np.float32).reshape(-1, corr.shape[-1])
        baseline = (flat @ rotated.T).max(1).reshape(corr.shape[:-1])
        here = found[:, :, first : first + len(own)]
        np.maximum(here, [corr.max(-1), baseline], out=here)

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """What `budget_table` reads from the store of matches."""
        return {"forward_budget": self.forward, "backward_budget": self.backward}

    def attributes(self) -> dict[str, Any]:
        """Of the points: their shards, and how many tokens are scored in them."""
        tokens = [neurons.n_tokens for neurons in self._a]
        return {"budget_shards": list(map(list, self._ranges)), "budget_tokens": tokens}


def budget_table(parts: Iterable[str | Path], step: int, excess_threshold: float) -> pd.DataFrame:
    """How scores of fewer tokens, and of two halves of them, agree at one step.

    Parameters
    ----------
    parts
        Stores of `correlation.write_matches`: of every pair, in any grouping of layers.
    step
        The step they belong to.
    excess_threshold
        Above which a neuron counts as universal.

    Returns
    -------
    DataFrame
        `COLUMNS`, one row per seed and point, nothing without a `Budget` (a single shard, screened
        mode). ``part`` is ``first`` (the first ``n_shards``, with ``n_tokens`` scored tokens) or
        ``all``, compared with all shards, or ``second half``, compared with the first half. Of the
        ``n_neurons`` sampled neurons: ``n_universal`` in that part; ``jaccard`` of the two
        universal sets (NaN if both are empty); ``rank_corr`` of the two excess correlations
        (Spearman) and ``corr`` (Pearson), NaN where one is constant. Of the second half also the
        ``reliability`` of all tokens, 2 corr / (1 + corr) by Spearman and Brown; else NaN.
    """
    found: dict[tuple[str, str], NDArray[np.float64]] = {}
    for part in parts:
        attributes = attributes_of(part)
        if "budget_shards" not in attributes:
            return pd.DataFrame(columns=COLUMNS)
        ranges, tokens = attributes["budget_shards"], attributes["budget_tokens"]
        a, b = attributes["seed"], attributes["other_seed"]
        arrays = read_arrays(part)
        for key, way in (((a, b), "forward"), ((b, a), "backward")):
            values = arrays[f"{way}_budget"]
            found[key] = np.maximum(found.get(key, -np.inf), values)
    rows = []
    for seed, (best, baseline) in mean_over_others(found).items():
        excess = best - baseline
        names = ["first"] * (len(excess) - 2) + ["all", "second half"]
        for name, (start, stop), n_tokens, own in zip(names, ranges, tokens, excess, strict=True):
            other = excess[-3 if name == "second half" else -2]
            one, two = own > excess_threshold, other > excess_threshold
            either = (one | two).sum()
            corr = _corr(own, other)
            # A negative correlation says no more than none.
            reliability = 2 * max(corr, 0) / (1 + max(corr, 0))
            rows.append(
                {
                    "step": step,
                    "seed": seed,
                    "part": name,
                    "n_shards": stop - start,
                    "n_tokens": n_tokens,
                    "n_neurons": len(own),
                    "n_universal": one.sum(),
                    "jaccard": (one & two).sum() / either if either else np.nan,
                    "rank_corr": _corr(rankdata(own), rankdata(other)),
                    "corr": corr,
                    "reliability": reliability if name == "second half" else np.nan,
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def _corr(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Pearson correlation; NaN if one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norm) if norm > 0 else np.nan
