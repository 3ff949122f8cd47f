"""The closest groups of the report, each in the contexts of its largest activations."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.report.words import number
from universal_neurons.store.tables import read_table

# Groups that are shown, and contexts of each.
GROUPS, CONTEXTS = 10, 3


@dataclass(frozen=True)
class Token:
    """A token of a context: its text, and the neuron's activation as a share, −1 to 1."""

    text: str
    share: float


@dataclass(frozen=True)
class Reading:
    """What one member of a group does in a context.

    Attributes
    ----------
    seed, name
        The member, ``layer.neuron``.
    address
        Of its page in the explorer.
    tokens
        The context; the shares are of its own largest activation in the contexts shown.
    """

    seed: str
    name: str
    address: str
    tokens: list[Token]


@dataclass(frozen=True)
class Shown:
    """A group in the gallery.

    Attributes
    ----------
    summary
        Its numbers.
    contexts
        Of each context of the first member what every member does there.
    """

    summary: str
    contexts: list[list[Reading]]


def read_gallery(results: str | Path) -> list[Shown]:
    """The groups of the last step with the largest mean excess correlation.

    Only rows of their members are read. The contexts are the first member's, where its activation
    is largest; the other members are its best matches, and so were read in them too.

    Parameters
    ----------
    results
        Directory ``results/<run>``.

    Returns
    -------
    list of Shown
        At most `GROUPS`; none with two seeds, of which pairs are no groups.
    """
    results = Path(results)
    steps = read_table(results / "groups.parquet", ["step"])["step"]
    models = read_table(results / "models.parquet", ["step", "seed"])
    last = models["step"].max()
    if last not in set(steps) or models["seed"].nunique() < 3:
        return []
    groups = read_table(results / "groups.parquet", filters=[("step", "==", last)])
    means = groups.groupby("group")["excess_corr"].mean()
    vocabulary = read_table(results / "vocabulary.parquet")
    text = dict(zip(vocabulary["token_id"], vocabulary["text"], strict=True))
    return [
        _shown(results, groups[groups["group"] == group], mean, text)
        for group, mean in means.nlargest(GROUPS).items()
    ]


def _shown(results: Path, members: pd.DataFrame, mean: float, text: Mapping[int, str]) -> Shown:
    first = members.iloc[0]
    own = [(name, "==", first[name]) for name in ("step", "seed", "layer", "neuron")]
    own += [("band", "==", "top"), ("rank", "<", CONTEXTS)]
    examples = read_table(results / "examples.parquet", filters=own).set_index("rank")
    there = [*own, ("other_step", "==", first["step"])]
    others = read_table(results / "contexts.parquet", filters=there)
    found = {str(first["seed"]): examples["activations"]}
    for seed, rows in others.groupby("other_seed", observed=True):
        found[str(seed)] = rows.set_index("rank")["activations"]
    contexts = [
        [
            _reading(member, found[str(member["seed"])], rank, examples["token_ids"][rank], text)
            for member in members.to_dict("records")
        ]
        for rank in examples.index
    ]
    summary = (
        f"Excess correlation {number(mean, 2)} on average; correlations of its members from "
        f"{number(first['group_min_corr'], 2)}, {number(first['group_mean_corr'], 2)} on average."
    )
    return Shown(summary, contexts)


def _reading(
    member: Mapping[Hashable, Any],
    activations: pd.Series,
    rank: int,
    token_ids: Iterable[int],
    text: Mapping[int, str],
) -> Reading:
    seed, layer, neuron = str(member["seed"]), member["layer"], member["neuron"]
    # A model of another tokenizer has no activation at some of these tokens: no colour.
    largest = max(float(np.nanmax(np.abs(each))) for each in activations)
    values: NDArray = np.nan_to_num(np.asarray(activations[rank], np.float64) / (largest or 1))
    address = f"explorer/index.html#/{quote(seed, safe='')}/{member['step']}/{layer}/{neuron}"
    tokens = [Token(text[int(i)], float(x)) for i, x in zip(token_ids, values, strict=True)]
    return Reading(seed, f"{layer}.{neuron}", address, tokens)
