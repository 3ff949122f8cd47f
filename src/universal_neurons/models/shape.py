"""Size of a model, read from its ``config.json``: cheap, as the Snakefile asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from universal_neurons.errors import UserError
from universal_neurons.models.architectures import ARCHITECTURES
from universal_neurons.models.description import (
    CONTEXT_KEYS,
    LAYER_KEYS,
    MLP_KEYS,
    WIDTH_KEYS,
    read_description,
)

# More than any model has. What is planned grows with them, so that a wrong one would not end.
MOST_LAYERS, MOST_NEURONS = 10_000, 10_000_000


@dataclass(frozen=True)
class Shape:
    """Size of a model: number of layers and neurons per layer."""

    n_layers: int
    d_mlp: int

    @property
    def neurons(self) -> int:
        """Neurons of the whole model."""
        return self.n_layers * self.d_mlp


def read_shape(model: Path) -> Shape:
    """Read a model's shape from its ``config.json``.

    Raises
    ------
    UserError
        If it does not name the sizes or absurd ones, or of `description.read_description`.
    """
    found, file = read_description(model), model / "config.json"
    layers = _size(found, LAYER_KEYS, MOST_LAYERS, file)
    width = _size(found, WIDTH_KEYS, MOST_NEURONS, file)
    d_mlp = _size(found, MLP_KEYS, MOST_NEURONS, file) or (width and 4 * width)
    if layers is None or d_mlp is None:
        raise UserError(f"models.path: {file} does not say the number of layers and the MLP width")
    return Shape(layers, d_mlp)


def _size(found: Mapping[str, Any], keys: Sequence[str], most: int, file: Path) -> int | None:
    """The size that ``config.json`` has under one of these keys, if any."""
    key = next((key for key in keys if found.get(key)), None)
    if key is None:
        return None
    if found[key] > most:
        raise UserError(f"models.path: {file}: {key} is {found[key]:,}; at most {most:,} can be")
    return found[key]


def read_vocabulary(model: Path) -> int | None:
    """Number of tokens that a model's ``config.json`` names, if any."""
    return read_description(model).get("vocab_size")


def read_context(model: Path) -> int | None:
    """Length of the sequences that a model's ``config.json`` allows, if it names any."""
    found = read_description(model)
    positions = next((found[k] for k in CONTEXT_KEYS if found.get(k)), None)
    kind = found.get("model_type")
    if positions is None or kind is None:
        return positions
    # Where config.json says nothing of padding, RoBERTa's default.
    return ARCHITECTURES[kind].longest(positions, found.get("pad_token_id", 1) or 0)


def read_loss_kind(model: Path) -> str:
    """What a model is trained to predict by its ``config.json``, see `Architecture.loss_kind`."""
    kind = read_description(model).get("model_type")
    return ARCHITECTURES[kind].loss_kind if kind else "next_token"
