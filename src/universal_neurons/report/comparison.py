"""How far two runs over the same models agree: scores, universal neurons and partners.

Exact against screened, one threshold or corpus against another. Neurons are the same that have one
seed, step, layer and index; what only one of the runs has is left out, and said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from universal_neurons.errors import UserError
from universal_neurons.store.columns.declare import ALL_LAYERS
from universal_neurons.store.tables import read_table

NEURON = ["seed", "layer", "neuron"]
SIDES = ("_a", "_b")


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    Attributes
    ----------
    table
        One row per step and layer (-1: all layers), with ``step, layer, n_neurons``; of the excess
        correlation ``corr``, ``mean_difference`` and ``max_difference`` (absolute) and ``shift``
        (mean of b less a); of the universal neurons ``n_a, n_b, n_both, jaccard, a_in_b, b_in_a``
        (shares of the universal ones of a that are universal in b, and the other way); and
        ``same_partner``, the share of best matches in another seed that are the same neuron.
    last
        Neurons of the last step, with ``excess_corr`` and ``universal`` of either run (`SIDES`).
    notes
        What was compared and what could not be, in sentences.
    """

    table: pd.DataFrame
    last: pd.DataFrame
    notes: list[str]


@dataclass(frozen=True)
class _Run:
    """A run and what it has scores of."""

    path: Path
    seeds: list[str]
    steps: list[int]

    @classmethod
    def of(cls, path: str | Path) -> _Run:
        table = _read(Path(path), "universality", ["step", "seed"]).drop_duplicates()
        return cls(Path(path), list(dict.fromkeys(table["seed"])), sorted(set(table["step"])))

    def __str__(self) -> str:
        return f"{self.path} has seeds {_listed(self.seeds)} at steps {_listed(self.steps)}"


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Compare the steps and seeds that two runs have in common.

    Parameters
    ----------
    a, b
        Directories ``results/<run>``.

    Raises
    ------
    UserError
        If a table is missing, nothing is in common or the models have other sizes.
    """
    runs = _Run.of(a), _Run.of(b)
    seeds = [seed for seed in runs[0].seeds if seed in runs[1].seeds]
    steps = [step for step in runs[0].steps if step in runs[1].steps]
    if not steps or not seeds:
        what = "step" if seeds else "seed"
        raise UserError(f"the runs have no {what} in common: {runs[0]}; {runs[1]}")
    rows: list[dict[str, Any]] = []
    scores = pd.DataFrame()
    for step in steps:
        scores = _scores(runs, step, seeds)
        rows += _agreement(step, scores, _partners(runs, step, seeds))
    return Comparison(pd.DataFrame(rows), scores, list(_notes(runs, seeds, steps)))


def _read(results: Path, name: str, columns: Sequence[str], filters: Any = None) -> pd.DataFrame:
    path = results / f"{name}.parquet"
    if not path.is_file():
        raise UserError(f"{path} is missing: run the workflow first, or give another run")
    table = read_table(path, columns, filters)
    # As text: categories may be in another order in the other run.
    return table.assign(**{c: table[c].astype(str) for c in columns if c.endswith("seed")})


def _scores(runs: Sequence[_Run], step: int, seeds: Sequence[str]) -> pd.DataFrame:
    """Neurons of a step that both runs scored."""
    columns, rows = [*NEURON, "excess_corr", "universal"], _rows(step, seed=seeds)
    a, b = (_read(run.path, "universality", columns, rows) for run in runs)
    both = a.merge(b, on=NEURON, suffixes=SIDES)
    if not len(a) == len(b) == len(both):
        raise UserError(
            f"at step {step} a seed has other neurons in {runs[0].path} than in {runs[1].path}: "
            "the runs are of different models"
        )
    return both


def _partners(runs: Sequence[_Run], step: int, seeds: Sequence[str]) -> pd.DataFrame:
    """For every neuron and other seed, whether the best match is the same neuron in both runs."""
    keys, best = [*NEURON, "other_seed"], ["best_layer", "best_neuron"]
    rows = _rows(step, seed=seeds, other_seed=seeds)
    a, b = (_read(run.path, "matches", [*keys, *best], rows) for run in runs)
    both = a.merge(b, on=keys, suffixes=SIDES)
    layer, neuron = (both[f"{name}_a"] == both[f"{name}_b"] for name in best)
    return both[["layer"]].assign(same=layer & neuron)


def _rows(step: int, **seeds: Sequence[str]) -> list[tuple[str, str, Any]]:
    """Filters for rows of a step and some seeds."""
    return [("step", "==", step), *((name, "in", list(some)) for name, some in seeds.items())]


def _agreement(step: int, scores: pd.DataFrame, partners: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a step, all layers first."""
    rows: list[dict[str, Any]]
    rows = [{"step": step, "layer": ALL_LAYERS, **_of_neurons(scores, partners)}]
    for layer, some in scores.groupby("layer"):
        mine = partners[partners["layer"] == layer]
        rows.append({"step": step, "layer": layer, **_of_neurons(some, mine)})
    return rows


def _of_neurons(scores: pd.DataFrame, partners: pd.DataFrame) -> dict[str, float]:
    difference = scores["excess_corr_b"] - scores["excess_corr_a"]
    in_a, in_b = scores["universal_a"].astype(bool), scores["universal_b"].astype(bool)
    n_a, n_b, n_both = int(in_a.sum()), int(in_b.sum()), int((in_a & in_b).sum())
    return {
        "n_neurons": len(scores),
        "corr": scores["excess_corr_a"].corr(scores["excess_corr_b"]),
        "mean_difference": difference.abs().mean(),
        "max_difference": difference.abs().max(),
        "shift": difference.mean(),
        "n_a": n_a,
        "n_b": n_b,
        "n_both": n_both,
        "jaccard": _share(n_both, n_a + n_b - n_both),
        "a_in_b": _share(n_both, n_a),
        "b_in_a": _share(n_both, n_b),
        "same_partner": partners["same"].mean(),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _notes(runs: Sequence[_Run], seeds: Sequence[str], steps: Sequence[int]) -> Iterator[str]:
    a, b = runs
    yield f"a is {a.path}, b is {b.path}: seeds {_listed(seeds)} at steps {_listed(steps)}."
    for run in runs:
        only = [
            f"{name} {_listed(more)}"
            for name, all_of, some in (("seeds", run.seeds, seeds), ("steps", run.steps, steps))
            if (more := [value for value in all_of if value not in some])
        ]
        if only:
            yield f"Left out, only in {run.path}: {' and '.join(only)}."
    if set(a.seeds) != set(b.seeds):
        yield "Excess is a mean over a run's other seeds, which are not the same in both."
    if other := _other_weights(runs, seeds, steps):
        yield f"Of other weights in the two runs: {_listed(other)}."


def _other_weights(runs: Sequence[_Run], seeds: Sequence[str], steps: Sequence[int]) -> list[str]:
    """Models that differ between the runs, where both have the table of their models."""
    if not all((run.path / "models.parquet").is_file() for run in runs):
        return []
    keys = ["seed", "step"]
    a, b = (_read(run.path, "models", [*keys, "sha256"]) for run in runs)
    both = a.merge(b, on=keys, suffixes=SIDES)
    mine = both["step"].isin(steps) & both["seed"].isin(seeds)
    other = both[mine & (both["sha256_a"] != both["sha256_b"])]
    return [f"seed {seed} at step {step}" for seed, step in other[keys].itertuples(index=False)]
