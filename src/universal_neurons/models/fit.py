"""Whether a model's ``config.json`` describes the weights beside it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from universal_neurons.errors import UserError
from universal_neurons.models.description import SIZES

# Names of weights that a message lists.
LISTED = 5


def check_size(path: Path, outline: Any, weights: Mapping[str, Any]) -> None:
    """Refuse a ``config.json`` that describes a far larger model, before memory is taken for it.

    Parameters
    ----------
    path
        The model's directory.
    outline
        The Hugging Face model that ``config.json`` describes, without memory for its weights.
    weights
        By name, as `weights.read_weights` returns them.

    Raises
    ------
    UserError
        If it has more than twice the weights.
    """
    described = sum(weight.numel() for weight in outline.parameters())
    shapes = (w.get_shape() if hasattr(w, "get_shape") else w.shape for w in weights.values())
    held = sum(map(math.prod, shapes))
    if described > 2 * held:
        raise UserError(
            f"{path}: config.json does not fit the weights: it describes a model of {described:,} "
            f"numbers, the files have {held:,}"
        )


def heads(module: Any) -> list[str]:
    """Names of what a Hugging Face model predicts with: its parts beside the base model."""
    return [
        name
        for name, part in module.named_children()
        if part is not module.base_model and any(True for _ in part.parameters())
    ]


def lacks_head(module: Any, loading: Mapping[str, Any], weights: Mapping[str, Any]) -> bool:
    """Whether the files have all weights but those of the head, of which they have none.

    So base models are saved. A head whose weights are those of the embedding is never missing.

    Parameters
    ----------
    module
        The loaded Hugging Face model.
    loading
        The loading information of ``from_pretrained``.
    weights
        By name, as `weights.read_weights` returns them.
    """
    parts, missing = heads(module), loading["missing_keys"]
    if any(name.partition(".")[0] in parts for name in weights):
        return False
    return bool(missing) and all(name.partition(".")[0] in parts for name in missing)


def check_loading(path: Path, loading: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Refuse what transformers would pass over: it drops weights and draws others at random.

    Parameters
    ----------
    path
        The model's directory.
    loading
        The loading information of ``from_pretrained``.
    about
        What ``config.json`` says.

    Raises
    ------
    UserError
        If a weight is missing, unexpected or of another shape.
    """
    misfits = [_misfit(*misfit, about=about) for misfit in sorted(loading["mismatched_keys"])]
    if misfits:
        # The one that names a key says more.
        raise UserError(
            f"{path}: config.json does not fit the weights: {max(misfits, key=lambda m: ';' in m)}"
        )
    if unexpected := loading["unexpected_keys"]:
        raise UserError(f"{path}: config.json does not cover the weights {_listed(unexpected)}")
    if missing := loading["missing_keys"]:
        raise UserError(f"{path}: weights are missing: {_listed(missing)}")


def _misfit(
    name: str, found: Sequence[int], by_config: Sequence[int], *, about: Mapping[str, Any]
) -> str:
    """What differs, with the key of config.json where the size is one that it names."""
    shapes = f"{name} has shape {tuple(found)}, by config.json {tuple(by_config)}"
    for size, other in zip(found, by_config, strict=False):
        keys = [key for key in SIZES if about.get(key) == other]
        if size != other and keys:
            return f"{' or '.join(keys)} is {other}, by the weights {size}; {shapes}"
    return shapes


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(sorted(names)[:LISTED]) + more
