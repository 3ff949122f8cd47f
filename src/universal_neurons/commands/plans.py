"""The jobs that a run still has to do, as Snakemake's dry run lists them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from universal_neurons.errors import UserError

# Where Snakemake itself looks for a workflow.
SNAKEFILES = ("Snakefile", "snakefile", "workflow/Snakefile", "workflow/snakefile")

# How a job begins in a dry run, and the lines of it that are read.
JOB = re.compile(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", re.MULTILINE)
OUTPUT, LOG, BENCHMARK = (
    re.compile(rf"^    {name}: (.+?)(?:, .*| \(.*)?$", re.MULTILINE)
    for name in ("output", "log", "benchmark")
)
TOTAL = re.compile(r"^total +(\d+)$", re.MULTILINE)
NOTHING = "Nothing to be done"

# Where in Snakemake's words a mistake begins.
MISTAKE = re.compile(r"^(?:\w*(?:Error|Exception)\b.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """A job of a dry run.

    Attributes
    ----------
    rule
        Its rule.
    output, log, benchmark
        The first file that it makes, its log and its benchmark, where it has them.
    """

    rule: str
    output: Path | None
    log: Path | None
    benchmark: Path | None


def has_workflow(snakefile: Path | None) -> bool:
    """Whether there is a workflow to plan: the one given, or one where Snakemake looks for it."""
    names = SNAKEFILES if snakefile is None else (snakefile,)
    return any(Path(name).is_file() for name in names)


def remaining(config: str | Path, snakefile: Path | None = None) -> list[Job]:
    """The jobs that are still to do, or to do again; takes no lock.

    Files that were removed after everything made from them was there bring none.

    Parameters
    ----------
    config
        Configuration file.
    snakefile
        Of the workflow; where Snakemake looks for it if None.

    Raises
    ------
    UserError
        If there is no workflow or Snakemake can't plan the run.
    """
    if not has_workflow(snakefile):
        looked = snakefile or f"Snakefile in {Path.cwd()}"
        raise UserError(f"no {looked}: name the workflow's by --snakefile, or go to its folder")
    where = () if snakefile is None else ("--snakefile", str(snakefile))
    command = [sys.executable, "-m", "snakemake", *where, "--configfile", str(config)]
    done = subprocess.run(
        [*command, "--cores", "1", "--dry-run"], text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise UserError(f"snakemake can't plan the run: {_mistake(done.stderr + done.stdout)}")
    return list(_jobs(done.stdout))


def _jobs(said: str) -> Iterator[Job]:
    """The jobs in a dry run's output."""
    found = JOB.findall(said)
    total = TOTAL.search(said)
    if len(found) != (int(total[1]) if total else 0) or not (total or NOTHING in said):
        raise UserError("snakemake --dry-run printed no plan that is known here")
    for rule, lines in found:
        files = (pattern.search(lines) for pattern in (OUTPUT, LOG, BENCHMARK))
        yield Job(rule, *(Path(file[1]) if file else None for file in files))


def _mistake(said: str) -> str:
    """What is wrong, of all that Snakemake says where it fails."""
    start = MISTAKE.search(said)
    lines = said[start.start() if start else 0 :].splitlines()
    return "\n".join(line for line in lines if line.strip() and not line.startswith('  File "'))
