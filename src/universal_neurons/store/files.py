"""Files that are complete or absent, and what goes wrong while they are read."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr

from universal_neurons.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a sibling name to write to; rename it to `path` if the block succeeds.

    What a failed block wrote is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def again(path: str | Path) -> str:
    """How to make a file or store again, for messages."""
    return f"remove it and run snakemake again:  rm -r {shlex.quote(str(path))}"


def check_writable(folder: str | Path) -> None:
    """Refuse a folder, or the place it would be made in, that can't be written.

    Raises
    ------
    UserError
        If it is on a read-only file system or belongs to somebody else.
    """
    there = Path(folder).absolute()
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK):
        raise UserError(
            f"{there}: can't be written; make it writable, or run in another folder (`snakemake "
            "--directory`), then run the same command again: finished jobs stay"
        )


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a store or file is read into a `UserError` that names it."""
    try:
        yield
    except (ValueError, KeyError, OSError, RuntimeError, zarr.errors.BaseZarrError) as error:
        raise UserError(f"{path}: damaged ({error}); {again(path)}") from error


def read_json(path: str | Path) -> Any:
    """Read a JSON file that an earlier job wrote."""
    with reading(path):
        return json.loads(Path(path).read_text())
