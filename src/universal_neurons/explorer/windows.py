"""Contexts of a seed's chosen neurons: tokens, and what they and others' neurons do there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.explorer.numbers import Rows, of_seed
from universal_neurons.explorer.shards import short

BANDS = ("top", "0.99-0.999", "0.9-0.99", "0.5-0.9", "0-0.5", "random")
# Activations are shown as colours: so many levels on either side of 0, and one for not known.
LEVELS, UNKNOWN = 31, -128
# At other steps a neuron is followed in these only: all would be as much again for every step.
FOLLOWED = ("top",)

# Which neuron of which model: seed, step, layer, neuron. Which context: band, rank.
OTHER = ("other_seed", "other_step", "other_layer", "other_neuron")
Model = tuple[Any, ...]
Key = tuple[str, int]


@dataclass(frozen=True)
class Windows:
    """The contexts of one neuron, by band and rank.

    Attributes
    ----------
    contexts
        One row for each: place of the band in `BANDS`, sequence, position, activation, first token
        of the window, number of its tokens.
    tokens
        Ids of all windows' tokens, one after another.
    readings
        What the neuron itself (first), its partners and itself at other steps do there: facts,
        where ``n`` says of how many of the first contexts.
    codes
        Levels of all readings, one after another, each as long as its contexts' tokens.
    """

    contexts: list[list[Any]]
    tokens: NDArray[np.uint32]
    readings: list[dict[str, Any]]
    codes: NDArray[np.int8]


def read_windows(
    examples: str | Path,
    contexts: str | Path,
    rows: Mapping[str, Rows],
    seed: str,
    extremes: Mapping[tuple[str, int], NDArray[np.floating]],
) -> Iterator[tuple[int, Windows]]:
    """Yield the chosen neurons of a seed, by their place among its `Rows`, with their contexts.

    Parameters
    ----------
    examples, contexts
        Tables.
    rows
        The neurons of every seed.
    seed
        Whose neurons.
    extremes
        By seed and step the largest absolute activation of every neuron: full colour.
    """
    columns = ["step", "band", "rank", "sequence", "position", "activation", "start"]
    found = of_seed(examples, [*columns, "token_ids", "activations"], seed)
    found["row"], found["place"] = rows[seed].of(found), _places(found["band"])
    found = found.sort_values(["row", "place", "rank"], kind="stable")
    others = of_seed(contexts, ["band", "rank", *OTHER, "activations"], seed)
    others["row"] = rows[seed].of(others)
    others["order"] = others["other_seed"].astype(str) == seed
    others = others.sort_values(["row", "order", "other_step"], kind="stable")
    # Lists are much faster than frames of a few hundred rows.
    own = {str(name): found[name].tolist() for name in found}
    lists = [others[name].tolist() for name in (*OTHER, "band", "rank", "activations")]
    chosen = found["row"].unique()
    for row, here, there in zip(
        chosen.tolist(), _slices(found["row"], chosen), _slices(others["row"], chosen), strict=True
    ):
        elsewhere: dict[Model, dict[Key, Any]] = {}
        for *model, band, rank, window in zip(*(x[there] for x in lists), strict=True):
            elsewhere.setdefault(tuple(model), {})[band, rank] = window
        of_row = {name: values[here] for name, values in own.items()}
        yield row, _windows(of_row, elsewhere, seed, rows, extremes)


def _slices(rows: pd.Series, chosen: NDArray[np.integer]) -> list[slice]:
    """Where each of the chosen ones is among ascending rows."""
    ends = (np.searchsorted(rows, chosen, side).tolist() for side in ("left", "right"))
    return [slice(start, stop) for start, stop in zip(*ends, strict=True)]


def _places(bands: pd.Series) -> NDArray[np.intp]:
    return pd.Categorical(bands, categories=list(BANDS)).codes.astype(np.intp)


def _windows(
    own: Mapping[str, list[Any]],
    others: Mapping[Model, Mapping[Key, Any]],
    seed: str,
    rows: Mapping[str, Rows],
    extremes: Mapping[tuple[str, int], NDArray[np.floating]],
) -> Windows:
    """The contexts of one neuron, with what others do there: by model and key of the context."""
    lengths = [len(tokens) for tokens in own["token_ids"]]
    activations = map(short, own["activation"])
    columns = [own[name] for name in ("place", "sequence", "position")]
    contexts = [*map(list, zip(*columns, activations, own["start"], lengths, strict=True))]
    readings: list[dict[str, Any]] = [{"seed": seed, "step": own["step"][0], "row": own["row"][0]}]
    values: list[list[Any]] = [own["activations"]]
    keys = list(zip(own["band"], own["rank"], strict=True))
    followed = [key for key in keys if key[0] in FOLLOWED]
    for (other, step, layer, neuron), seen in others.items():
        row = sum(rows[other].widths[:layer]) + neuron
        readings.append({"seed": other, "step": step, "row": row})
        values.append([seen.get(key) for key in (followed if other == seed else keys)])
    codes = []
    for reading, windows in zip(readings, values, strict=True):
        levels, scale = _levels(windows, lengths)
        full = extremes[reading["seed"], reading["step"]][reading["row"]]
        reading |= {"n": len(windows), "scale": short(scale), "full": short(float(full))}
        codes.append(levels)
    tokens = np.concatenate(own["token_ids"]).astype(np.uint32)
    return Windows(contexts, tokens, readings, np.concatenate(codes))


def _levels(windows: Sequence[Any], lengths: Sequence[int]) -> tuple[NDArray[np.int8], float]:
    """Activations in `LEVELS` of the largest one, which is returned too."""
    pairs = zip(windows, lengths[: len(windows)], strict=True)
    found = [np.full(length, np.nan) if x is None else x for x, length in pairs]
    x = np.concatenate(found or [[]])
    known = np.isfinite(x)
    scale = float(np.abs(x[known]).max(initial=0))
    levels = np.full(len(x), UNKNOWN, np.int8)
    levels[known] = np.rint(x[known] / (scale or 1) * LEVELS)
    return levels, scale
