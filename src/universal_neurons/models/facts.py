"""What is known of a model once it was captured: a JSON file beside its calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from universal_neurons.store.files import read_record, write_json
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
