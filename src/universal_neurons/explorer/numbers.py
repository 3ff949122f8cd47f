"""The numbers of every neuron of a model, joined from the tables of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.store.tables import read_table

# What is known of all neurons, by table; the pages' words name them so.
COLUMNS = {
    "universality": (
        *("excess_corr", "excess_se", "max_corr", "baseline_corr", "p_value", "q_value"),
        *("universal", "n_matched", "n_mutual", "excess_given_token", "token_r2"),
        *("previous_token_r2", "position_r2", "regression_r2"),
    ),
    "effects": ("attributed_delta_loss", "delta_loss", "delta_loss_se"),
    "neurons": ("mean", "std", "skewness", "kurtosis", "sparsity", "min", "max", "dead"),
    "roles": (
        *("role", "w_in_norm", "w_out_norm", "input_bias", "in_out_cos", "l2_penalty"),
        *("vocab_mean", "vocab_var", "vocab_skew", "vocab_kurt", "logit_var", "null_space"),
    ),
    "families": ("family", "explanation", "variance_reduction", "position_mi"),
}
# Of these, what the list shows, and a neuron's page where it has no contexts: three digits, a few
# small integers, and names. (max_corr is the sum of excess_corr and baseline_corr.)
DIGITS = (
    *("excess_corr", "excess_se", "baseline_corr", "p_value", "q_value"),
    *("excess_given_token", "attributed_delta_loss", "delta_loss", "delta_loss_se"),
    *("sparsity", "variance_reduction"),
)
SMALL = ("universal", "dead", "n_matched", "n_mutual")
NAMES = ("role", "family")


@dataclass(frozen=True)
class Sources:
    """Paths of the tables that the explorer is made from, each by its name."""

    universality: str | Path
    matches: str | Path
    groups: str | Path
    effects: str | Path
    neurons: str | Path
    trajectories: str | Path
    models: str | Path
    roles: str | Path
    families: str | Path
    examples: str | Path
    contexts: str | Path
    histograms: str | Path
    activating_tokens: str | Path
    vocabulary: str | Path

    @classmethod
    def of(cls, paths: Sequence[str | Path]) -> Sources:
        """From paths whose names say which table they are."""
        by_name = {Path(path).stem: path for path in paths}
        return cls(**{field.name: by_name[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Rows:
    """The neurons of a seed in one row, layer by layer.

    Attributes
    ----------
    widths
        Neurons of every layer.
    """

    widths: Sequence[int]

    @property
    def n(self) -> int:
        """Number of neurons."""
        return int(sum(self.widths))

    def of(self, rows: pd.DataFrame, layer: str = "layer", neuron: str = "neuron") -> NDArray[Any]:
        """Where the neurons of a table are, shape (rows,)."""
        starts = np.cumsum([0, *self.widths])
        return starts[rows[layer].to_numpy()] + rows[neuron].to_numpy()


@dataclass(frozen=True)
class Run:
    """What the pages of all seeds share.

    Attributes
    ----------
    sources
        The tables.
    seeds, steps
        In the order of the configuration.
    rows
        The neurons of every seed.
    extremes
        By seed and step the largest absolute activation of every neuron.
    """

    sources: Sources
    seeds: Sequence[str]
    steps: Sequence[int]
    rows: Mapping[str, Rows]
    extremes: Mapping[tuple[str, int], NDArray[np.floating]]

    @property
    def last(self) -> int:
        """The step whose contexts are shown."""
        return self.steps[-1]


def of_seed(path: str | Path, columns: Sequence[str], seed: str, **also: int) -> pd.DataFrame:
    """Rows of a table of a seed, and perhaps of one step, with their layers and neurons."""
    where = [("seed", "==", seed), *((name, "==", value) for name, value in also.items())]
    return read_table(path, ["layer", "neuron", *columns], where)


def rows_of(sources: Sources, seed: str, step: int) -> Rows:
    """The layers of a seed, which are the same at every step."""
    found = of_seed(sources.universality, [], seed, step=step)
    return Rows(found.groupby("layer").size().sort_index().tolist())


def extremes(
    sources: Sources, rows: Mapping[str, Rows]
) -> dict[tuple[str, int], NDArray[np.float32]]:
    """By seed and step the largest absolute activation of every neuron."""
    found = {}
    for seed, of in rows.items():
        every = of_seed(sources.neurons, ["step", "min", "max"], seed)
        every["row"] = of.of(every)
        every["largest"] = every[["min", "max"]].abs().max(axis=1)
        for step in map(int, every["step"].unique()):
            own = every[every["step"] == step].set_index("row")["largest"]
            found[seed, step] = own.reindex(range(of.n)).fillna(0).to_numpy(np.float32)
    return found


def numbers(
    sources: Sources, rows: Rows, seed: str, steps: Sequence[int]
) -> dict[int, pd.DataFrame]:
    """By step all `COLUMNS`, one row per neuron in order; missing where a table has no row."""
    parts: dict[int, list[pd.DataFrame]] = {step: [] for step in steps}
    for table, columns in COLUMNS.items():
        found = of_seed(getattr(sources, table), ["step", *columns], seed)
        found.index = pd.Index(rows.of(found))
        for step, part in parts.items():
            own = found.loc[found["step"] == step, list(columns)]
            part.append(own.reindex(range(rows.n)))
    return {step: pd.concat(part, axis=1) for step, part in parts.items()}


def listed(
    found: pd.DataFrame, names: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a model's shard of the list holds: facts and arrays, see `shards.write_shard`.

    Parameters
    ----------
    found
        Of a step, as `numbers` returns it.
    names
        Roles and families of the run by column of `NAMES`; a code is a place in it plus one, 0 is
        none.
    """
    arrays = {name: float16(found[name]) for name in DIGITS}
    for name in SMALL:
        arrays[name] = found[name].fillna(0).to_numpy(float).clip(0, 255).astype(np.uint8)
    for name in NAMES:
        codes = pd.Categorical(found[name], categories=list(names[name])).codes
        arrays[name] = (codes + 1).astype(np.uint8)
    explained = pd.Categorical(found["explanation"])
    arrays["explanation"] = (explained.codes + 1).astype(np.uint16)
    return {"explanations": [str(text) for text in explained.categories]}, arrays


def float16(values: pd.Series) -> NDArray[np.float16]:
    """Values with three digits, the largest of that type in place of larger ones."""
    largest = float(np.finfo(np.float16).max)
    return values.to_numpy(float).clip(-largest, largest).astype(np.float16)
