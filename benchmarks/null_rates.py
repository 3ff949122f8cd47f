"""How often p < 0.05 on null data, by kurtosis: the table in docs/method.md.

Null data are scores of which a null is true: best matches with other sequences in the second shard,
held against those in the first (permuted), and the baseline's first rotation, held against the
others (rotated). Beside them what one null for a whole layer would give.

    python benchmarks/null_rates.py results/demo 400    # a finished run of two shards, and a step
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from universal_neurons.correlate.matches import StepMatches
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


def rotated_excess(results: Path, step: int, draws: slice) -> np.ndarray:
    """Excess of rotations over other rotations, among some draws; shape (draws, neurons)."""
    found = StepMatches.read(sorted(results.glob(f"matches/step{step}/*/*/*.zarr"))).found
    by_pair = {pair: nulls.left_out_excess(m.baseline[draws]) for pair, m in found.items()}
    return np.hstack(list(mean_over_others(by_pair).values()))


def rates(scores: pd.DataFrame, null: pd.DataFrame) -> dict[str, float]:
    """Share of p < 0.05 by stratum, in percent."""
    small = pd.Series(nulls.p_values(scores, null) < 0.05, scores.index)[nulls.live(scores)]
    return (100 * small.groupby(scores["stratum"]).mean()).round(1).to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("step", type=int)
    options = parser.parse_args()
    results, step = options.results, options.step
    own = read_table(results / "universality.parquet").query("step == @step")
    own = own.sort_values(
        ["seed", "layer", "neuron"],
        key=lambda column: column.astype(str if column.name == "seed" else int),
    ).reset_index(drop=True)
    seeds = sorted(own["seed"].astype(str).unique())
    named = own[["layer", "stratum"]]
    data, other = (permuted_scores(results, seeds, step, shard) for shard in (1, 0))
    first, *_ = rotated_excess(results, step, slice(None))
    others = rotated_excess(results, step, slice(1, None))
    worlds = {
        "permuted": (
            data[["layer", "baseline_corr", "excess_corr"]],
            nulls.permuted_null(other, named),
        ),
        "rotated": (
            own[["layer", "baseline_corr"]].assign(excess_corr=first),
            pd.concat([named.assign(excess=draw) for draw in others]),
        ),
    }
    for name, (scores, null) in worlds.items():
        print(name, "by stratum", rates(scores.assign(stratum=own["stratum"]), null))
        pooled = nulls.p_values(scores.assign(stratum=0), null.assign(stratum=0)) < 0.05
        alive = nulls.live(scores)
        by = pd.Series(pooled)[alive].groupby(own["stratum"][alive]).mean()
        print(name, "of a layer", (100 * by).round(1).to_dict())


if __name__ == "__main__":
    main()
