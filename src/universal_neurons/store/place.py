"""Where in a run a file belongs: recorded when it is written, compared whenever it is read.

A path below ``results/<run>/`` says all that a file is of: its kind, its seed or pair, step, layers
and shard. Jobs ask for files by these paths, so what lies under another's path, say that of another
step or seed, is refused by whatever reads it. Files of earlier versions record no place, and are
not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from universal_neurons.errors import UserError
from universal_neurons.store.files import again, read_record, write_json

# In a directory of a model, which has no attributes.
MARK = "place.json"


def with_place(path: str | Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded with a file, with its place if it is one of the run that they name.

    Parameters
    ----------
    path
        To which the file is written.
    attributes
        With the ``run``, as of `provenance.provenance`.
    """
    parts, root = Path(path).parts, ("results", attributes.get("run"))
    ends = [i for i in range(2, len(parts)) if parts[i - 2 : i] == root]
    return {**attributes, **({"place": "/".join(parts[ends[-1] :])} if ends else {})}


def check_place(path: str | Path, attributes: Mapping[str, Any]) -> None:
    """Refuse what records another place than it was found at.

    Raises
    ------
    UserError
        Naming both.
    """
    if "place" not in attributes:
        return
    place = str(attributes["place"])
    here = "/".join(Path(path).parts[-1 - place.count("/") :])
    if here != place:
        raise UserError(f"{path}: this is {place} of a run, put in place of {here}; {again(path)}")


def mark_model(directory: Path, path: str | Path) -> None:
    """Record with a model that it is to lie under a path, which ends in its seed and step."""
    write_json(directory / MARK, {"place": "/".join(Path(path).parts[-2:])})


def check_model(path: str | Path) -> None:
    """Refuse a model that was made to lie elsewhere, as `check_place`."""
    if (Path(path) / MARK).exists():
        check_place(path, read_record(Path(path) / MARK, {"place": str}))
