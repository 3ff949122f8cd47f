"""Which jobs Snakemake has running, as it notes beside the results itself.

A job has no log before its libraries are imported, which takes as long as all else in a small run.
Snakemake marks every file that a job is to make as incomplete when the job begins.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from contextlib import suppress
from pathlib import Path

# Snakemake's own folder, in that of the run.
SNAKEMAKE = Path(".snakemake")


def begun(snakemake: Path = SNAKEMAKE) -> dict[Path, float]:
    """Files that jobs are making on this machine, and when these began.

    Marks outlive a Snakemake that was stopped, and count only while one holds the lock. Jobs of a
    cluster are left out: they are marked when they are submitted.
    """
    found: dict[Path, float] = {}
    if not any(snakemake.glob("locks/*")):
        return found
    # Each mark is a file, named as the file to be made in Base64, in parts where that is long: all
    # but the last are folders that begin with an @.
    marks = snakemake / "incomplete"
    for mark in marks.rglob("*"):
        # It may go at any time.
        with suppress(OSError, ValueError):
            if json.loads(mark.read_text()).get("external_jobid") is None:
                name = "".join(part.removeprefix("@") for part in mark.relative_to(marks).parts)
                found[Path(urlsafe_b64decode(name).decode())] = mark.stat().st_mtime
    return found
