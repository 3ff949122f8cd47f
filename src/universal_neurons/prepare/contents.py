"""What files hold, by their digests: a file that was touched or copied is still the same file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from universal_neurons.errors import UserError
from universal_neurons.store.files import write_json


def digests(files: Sequence[str], known: str | Path) -> list[str]:
    """SHA-256 of every file, each read once as long as its size and time stay.

    Parameters
    ----------
    files
        Paths.
    known
        JSON file of the digests taken so far, ``{path: [size, time in ns, digest]}``. It is only
        there to save time: one that is damaged or can't be written is done without.

    Raises
    ------
    UserError
        If a file can't be read.
    """
    have: dict[str, list[int | str]] = {}
    with suppress(OSError, ValueError, TypeError):
        have.update(json.loads(Path(known).read_text()))
    found = {}
    for file in files:
        try:
            stat = Path(file).stat()
            entry = have.get(file)
            if entry is None or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
                with open(file, "rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                entry = [stat.st_size, stat.st_mtime_ns, digest]
        except OSError as error:
            raise UserError(f"corpus.path: {file} can't be read ({error.strerror})") from error
        found[file] = entry
    if any(have.get(file) != entry for file, entry in found.items()):
        with suppress(OSError):
            write_json(known, {**have, **found})
    return [str(found[file][2]) for file in files]
