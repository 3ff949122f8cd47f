"""What Snakemake still has to do for a run, as it says itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from universal_neurons.errors import UserError

# First column of the table that ``snakemake --summary`` prints, and what the last one says of a
# file that is to be made.
FIRST_COLUMN, PENDING = "output_file", "update pending"


def _snakemake(config: Path, snakefile: Path | None, *options: str) -> str:
    """What Snakemake prints to standard output; the other words only where it fails."""
    where = () if snakefile is None else ("--snakefile", str(snakefile))
    command = [sys.executable, "-m", "snakemake", *where, "--configfile", str(config)]
    done = subprocess.run(
        [*command, "--cores", "1", *options], text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise UserError(f"snakemake can't plan the run:\n{done.stdout}{done.stderr}")
    return done.stdout


def dry_run(config: Path, snakefile: Path | None = None) -> str:
    """The jobs still to do, in the words of a dry run; takes no lock.

    Parameters
    ----------
    config
        Configuration file.
    snakefile
        Of the workflow; where Snakemake looks for it if None.

    Raises
    ------
    UserError
        If Snakemake can't plan the run.
    """
    return _snakemake(config, snakefile, "--dry-run")


def pending(config: Path, snakefile: Path | None = None) -> list[str]:
    """Output files that are still to be made, or made again; takes no lock.

    Files that were removed after everything made from them was there are not among them.

    Parameters
    ----------
    config, snakefile
        See `dry_run`.

    Raises
    ------
    UserError
        If Snakemake can't plan the run.
    """
    lines = _snakemake(config, snakefile, "--summary").splitlines()
    table = [line.split("\t") for line in lines]
    start = next((i for i, row in enumerate(table) if row[0] == FIRST_COLUMN), None)
    if start is None or table[start][-1] != "plan":
        raise UserError("snakemake --summary printed no table that is known here")
    width = len(table[start])
    rows = (row for row in table[start + 1 :] if len(row) == width)
    return [row[0] for row in rows if row[-1] == PENDING]
