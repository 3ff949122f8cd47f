"""What is known of a model once it was captured: a JSON file beside its calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from universal_neurons.errors import UserError
from universal_neurons.store.files import again, read_record, write_json
from universal_neurons.store.place import check_place, with_place

FACTS = {
    "seed": str,
    "step": int,
    "source": str,
    "sha256": str,
    "n_layers": int,
    "d_mlp": int,
}


def write_facts(path: str | Path, about: Mapping[str, Any]) -> None:
    """Write the facts of a model, with the ``run`` that they are of; `read_facts` reads them."""
    write_json(path, with_place(path, about))


def read_facts(path: str | Path) -> dict[str, Any]:
    """Read what `write_facts` wrote: a dict with the keys of `FACTS`, and others.

    Raises
    ------
    UserError
        If the file is damaged or of another model than its path says.
    """
    found = read_record(path, FACTS)
    check_place(path, found)
    return found


def check_weights(directory: str | Path, digest: str, captured: str, where: str | Path) -> None:
    """Refuse weights that are not those whose activations were captured.

    Parameters
    ----------
    directory
        Of the model.
    digest
        Of its weights.
    captured
        Of those that were captured.
    where
        File that says so, made by the capture.

    Raises
    ------
    UserError
        If the digests differ.
    """
    if digest != captured:
        raise UserError(
            f"{directory}: its weights (SHA-256 {digest[:12]}…) are not those that were captured "
            f"({captured[:12]}…, {where}): put those back, or, to capture these, {again(where)}"
        )
