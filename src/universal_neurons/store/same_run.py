"""Refuse to combine stores that do not belong together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from universal_neurons.errors import UserError
from universal_neurons.store.arrays import attributes_of
from universal_neurons.store.files import again

WEIGHTS = "the weights of "


def check_same_run(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Refuse to combine stores that don't belong together; returns what they have in common.

    What two stores both record must agree: the corpus, what was scored of it, and the weights of
    every (seed, step). Stores in one folder are shards and must follow each other.

    Parameters
    ----------
    paths
        Inputs of a job; those that are no stores are passed over.

    Returns
    -------
    dict
        To be recorded with what is made of them: ``corpus_sha256``, ``exclude``,
        ``exclude_positions``, ``encoding`` and ``models``, the digests of the weights by
        ``seed/step``.

    Raises
    ------
    UserError
        Naming two stores that differ.
    """
    first: dict[str, tuple[Any, str]] = {}
    ends: dict[Path, int] = {}
    for path in (str(path) for path in paths if str(path).endswith(".zarr")):
        attributes = attributes_of(path)
        shared = ("corpus_sha256", "exclude", "exclude_positions", "encoding")
        facts = {key: attributes[key] for key in shared if key in attributes}
        models = dict(attributes.get("models", {}))
        if "model_sha256" in attributes and "seed" in attributes:
            name = f"{attributes['seed']}/{attributes['step']}"
            models[name] = attributes["model_sha256"]
        facts |= {f"{WEIGHTS}{name}": digest for name, digest in models.items()}
        for key, value in facts.items():
            known, where = first.setdefault(key, (value, path))
            if known != value:
                raise UserError(
                    f"{path} and {where} differ in {key} ({value} and {known}): they are not of "
                    f"one run; the older one: {again(path)}"
                )
        if "sequences" in attributes:
            start, stop = attributes["sequences"]
            if start != ends.get(Path(path).parent, start):
                raise UserError(
                    f"{path}: has sequences {start} to {stop}, which do not follow those of the "
                    f"shard before it; {again(path)}"
                )
            ends[Path(path).parent] = stop
    found = {key: value for key, (value, _) in first.items()}
    weights = {key: found.pop(key) for key in list(found) if key.startswith(WEIGHTS)}
    return {**found, "models": {key.removeprefix(WEIGHTS): weights[key] for key in weights}}
