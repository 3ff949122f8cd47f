"""How often p < 0.05 on null data, by kurtosis: the table in docs/method.md.

Null data are scores of which a null is true: best matches with other sequences in the second shard,
held against those in the first and the reverse (permuted), and each of the baseline's rotations,
held against the others (rotated). Beside them what one null for a whole layer would give. Values of
a shard share its text, so that rates of few steps vary by more than their number says.

    python benchmarks/null_rates.py results/demo 100 200 400    # a run of two shards, and steps
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from universal_neurons.correlate.matches import Matches, StepMatches
from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.permuted import permuted_pair
from universal_neurons.correlate.rotations import Rotating
from universal_neurons.score import nulls
from universal_neurons.score.universality import (
    matches_table,
    mean_over_others,
    universality_table,
)
from universal_neurons.store.tables import read_table


def captured(results: Path, seed: str, step: int, shard: int) -> Captured:
    """A model, with its activations on one shard."""
    where = f"seed{seed}/step{step}"
    return Captured(
        sorted((results / "moments" / where).glob("shard*.zarr")),
        results / f"calibration/{where}.zarr",
        [results / f"activations/{where}/shard{shard}.zarr"],
    )


def permuted_scores(results: Path, seeds: list[str], step: int, shard: int) -> pd.DataFrame:
    """Scores of models that read other sequences of a shard."""
    context = np.load(results / "corpus/tokens.npy", mmap_mode="r").shape[1]
    options = {"rotations": results / "rotations.zarr", "rotating": Rotating(5), "kernel": "auto"}
    with TemporaryDirectory() as name:
        paths = []
        for a, b in combinations(seeds, 2):
            paths.append(Path(name, f"{a}_{b}.zarr"))
            models = (captured(results, seed, step, shard) for seed in (a, b))
            permuted_pair(*models, context, **options, path=paths[-1], attributes={})
        return universality_table(matches_table(StepMatches.read(paths), step))


def rotated_excess(found: Mapping[tuple[str, str], Matches], draws: Sequence[int]) -> np.ndarray:
    """Excess of rotations over other rotations, among some draws; shape (draws, neurons)."""
    by_pair = {pair: nulls.left_out_excess(m.baseline[draws]) for pair, m in found.items()}
    return np.hstack(list(mean_over_others(by_pair).values()))


def rejected(scores: pd.DataFrame, null: pd.DataFrame) -> pd.Series:
    """Whether p < 0.05 of every live neuron, by its place."""
    small = pd.Series(nulls.p_values(scores, null) < 0.05, scores.index)
    return small[nulls.live(scores)]


def worlds(
    results: Path, step: int, seeds: list[str], named: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Null data of a step: the name of a null, scores that it holds for, and its values."""
    shards = [permuted_scores(results, seeds, step, shard) for shard in (0, 1)]
    for data, other in (shards, shards[::-1]):
        yield "permuted", data[["baseline_corr", "excess_corr"]], nulls.permuted_null(other, named)
    found = StepMatches.read(sorted(results.glob(f"matches/step{step}/*/*/*.zarr"))).found
    draws = range(len(next(iter(found.values())).baseline))
    for draw, own in enumerate(rotated_excess(found, list(draws))):
        rest = rotated_excess(found, [i for i in draws if i != draw])
        null = pd.concat([named.assign(excess=excess) for excess in rest])
        yield "rotated", pd.DataFrame({"baseline_corr": 1.0, "excess_corr": own}), null


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("steps", type=int, nargs="+")
    options = parser.parse_args()
    found = []
    for step in options.steps:
        own = read_table(options.results / "universality.parquet").query("step == @step")
        own = own.assign(seed=own["seed"].astype(str))
        named = own.sort_values(["seed", "layer", "neuron"], ignore_index=True)
        named, seeds = named[["layer", "stratum"]], sorted(set(own["seed"]))
        for name, scores, null in worlds(options.results, step, seeds, named):
            for how, layer_only in (("by stratum", {}), ("of a layer", {"stratum": 0})):
                known = named.assign(**layer_only)
                small = rejected(known.join(scores), null.assign(**layer_only))
                part = pd.DataFrame({"small": 100 * small, "stratum": named["stratum"]}).dropna()
                found.append(part.assign(null=name, held=how))
    table = pd.concat(found).groupby(["null", "held", "stratum"])["small"].mean()
    print(table.astype(float).round(1).unstack().to_string())


if __name__ == "__main__":
    main()
