"""Files that are complete or absent, and what goes wrong while they are read."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any

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
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise UserError(f"{path}: damaged ({error}); {again(path)}") from error


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file; it appears under `path` when it is whole."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(value, indent=1))


def read_json(path: str | Path) -> Any:
    """Read a JSON file that an earlier job wrote."""
    with reading(path):
        return json.loads(Path(path).read_text())


def read_record(path: str | Path, kinds: Mapping[str, type | UnionType]) -> dict[str, Any]:
    """Read a JSON object with the keys and types that an earlier job gave it.

    Raises
    ------
    UserError
        If it is none, or one of the keys of `kinds` is missing or of another type.
    """
    found = read_json(path)
    with reading(path):
        check_record(found, kinds)
    return found


def check_record(found: Any, kinds: Mapping[str, type | UnionType]) -> None:
    """Refuse what has not all keys, with values of these types, as a ValueError."""
    wrong = [
        key
        for key, kind in kinds.items()
        if not isinstance(found, dict) or key not in found or not isinstance(found[key], kind)
    ]
    if wrong:
        raise ValueError(f"it lacks {', '.join(wrong)}")
