"""How far a run is, on one page: ``make status``.

What is still to do, a dry run says; the other jobs of the grid are done. Which of those to do are
at work, Snakemake notes where it runs them on this machine. On others their logs tell, which end
with "done", with an error or with how far a job is.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from universal_neurons.commands.at_work import begun
from universal_neurons.commands.plans import Job, remaining
from universal_neurons.commands.time_left import seconds_left
from universal_neurons.jobs import DONE, STOPPED
from universal_neurons.plan.config import load_config
from universal_neurons.plan.counts import counts
from universal_neurons.plan.grid import Grid
from universal_neurons.plan.units import in_bytes, in_time

# A running job says how far it is every 10 s; a job that was silent for longer than this was most
# likely killed.
SILENT_SECONDS = 600

# Seconds between two pages; planning a large run takes seconds itself.
EVERY = 3.0

# Puts a terminal's cursor into its first corner and clears what is below.
CLEAR = "\x1b[H\x1b[J"

# How lines begin that a job itself logs; the last line of a traceback does not.
TIME = r"\d\d:\d\d:\d\d "


@dataclass
class Rule:
    """The jobs of a rule.

    Attributes
    ----------
    done
        Number of jobs whose results stand.
    waiting, running, silent, failed
        Jobs that have not begun, that are at work, that stopped without a word, and that failed.
    """

    done: int = 0
    waiting: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)
    silent: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)

    @property
    def left(self) -> list[Job]:
        """All that are not done."""
        return [*self.waiting, *self.running, *self.silent, *self.failed]


def rules(
    whole: Mapping[str, int], left: Iterable[Job], begun: Mapping[Path, float], now: float
) -> dict[str, Rule]:
    """Sort the jobs of a run.

    Parameters
    ----------
    whole
        Number of jobs of the grid by rule.
    left
        The jobs still to do.
    begun
        Outputs of jobs at work, and when these began (`at_work.begun`).
    now
        Seconds since the epoch.

    Returns
    -------
    dict
        By rule, in the order of `whole`.
    """
    found = {rule: Rule() for rule in whole}
    for job in left:
        rule = found.setdefault(job.rule, Rule())
        _jobs_like(job, rule, begun.get(job.output) if job.output else None, now).append(job)
    for name, rule in found.items():
        rule.done = max(0, whole.get(name, 0) - len(rule.left))
    return found


def _jobs_like(job: Job, rule: Rule, begun: float | None, now: float) -> list[Job]:
    """Those of a rule that a job still to do is one of."""
    written = job.log.stat().st_mtime if job.log and job.log.is_file() else None
    if begun is None and written is None:
        return rule.waiting
    # A log that is older than its job is of one before.
    last = last_line(job.log) if job.log and written and written >= (begun or 0) else ""
    if last and not re.match(rf"{TIME}(?!error: )", last):
        return rule.failed
    # One that is done before Snakemake has noticed is still at work.
    ended = STOPPED if begun else rf"({STOPPED}|{DONE} .*)"
    if re.match(rf"{TIME}{ended}$", last):
        return rule.waiting
    life = max(begun or 0, written or 0)
    return rule.silent if now - life > SILENT_SECONDS else rule.running


def last_line(log: Path) -> str:
    """The last line of a log that is not blank; empty where there is none yet."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")


def page(results: str | Path, found: Mapping[str, Rule], seconds: float) -> str:
    """The page: how far the run is, jobs by rule, those at work and failed, and room on disk.

    Parameters
    ----------
    results
        Directory ``results/<run>``.
    found
        As `rules` returns it.
    seconds
        Left until all jobs are done.
    """
    total = _columns(found.values())
    # Never 100 as long as a job is left.
    percent = 100 * total["done"] // max(total["jobs"], 1)
    state = f"{total['done']:,} of {total['jobs']:,} jobs done ({percent} %)"
    if total["done"] < total["jobs"]:
        state += f", about {in_time(seconds)} left"
    lines = [f"{results}: {state}", "", f"{'':17}" + "".join(f"{name:>9}" for name in total)]
    for name, columns in (
        *((name, _columns([rule])) for name, rule in found.items()),
        ("total", total),
    ):
        lines.append(f"{name:17}" + "".join(f"{number:9,}" for number in columns.values()))
    for title, jobs in (
        ("Running", [job for rule in found.values() for job in rule.running]),
        ("Stopped without a word", [job for rule in found.values() for job in rule.silent]),
        ("Failed", [job for rule in found.values() for job in rule.failed]),
    ):
        logs = [job.log for job in jobs if job.log]
        if logs:
            said = ((log, last_line(log) or "has just begun") for log in logs)
            lines += ["", f"{title}:", *(f"  {log}: {line}" for log, line in said)]
    lines += ["", *(f"{in_bytes(size):>8}  {name}" for name, size in sizes(results))]
    return "\n".join(lines)


def _columns(some: Iterable[Rule]) -> Counter[str]:
    """Numbers of jobs of rules by what they are at."""
    found: Counter[str] = Counter()
    for rule in some:
        found["jobs"] += rule.done + len(rule.left)
        found["done"] += rule.done
        found["running"] += len(rule.running)
        found["waiting"] += len(rule.waiting) + len(rule.silent)
        found["failed"] += len(rule.failed)
    return found


def bytes_in(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; those that go meanwhile do not count."""
    inside = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    total = 0
    for file in [path, *inside]:
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def sizes(results: str | Path) -> list[tuple[str, int]]:
    """Bytes on disk of everything in a run's folder and of the whole, largest first."""
    parts = {
        entry.name: bytes_in(entry)
        for entry in (Path(results).iterdir() if Path(results).is_dir() else ())
    }
    whole = [("in all", sum(parts.values()))]
    return whole + sorted(parts.items(), key=lambda part: -part[1])[:8]


def of_run(config: str | Path, snakefile: Path | None = None) -> tuple[str, bool]:
    """The status page of a run, and whether all is done.

    Parameters
    ----------
    config
        Its configuration file.
    snakefile
        Of the workflow; where Snakemake looks for it if None.

    Raises
    ------
    UserError
        If the configuration is wrong or the run can't be planned.
    """
    grid = Grid.of(load_config(config))
    results, left = Path("results", grid.config.run), remaining(config, snakefile)
    found = rules(counts(grid), left, begun(), time.time())
    # Of the jobs at work half is done, on average.
    parts = dict.fromkeys(left, 1.0)
    parts |= {job: 0.5 for rule in found.values() for job in rule.running}
    return page(results, found, seconds_left(results, parts, grid)), not left


def watch(config: str | Path, snakefile: Path | None = None, *, stream: TextIO) -> None:
    """Show the page again every few seconds until all is done or somebody interrupts.

    Parameters
    ----------
    config, snakefile
        See `of_run`.
    stream
        A terminal's is cleared for every page.
    """
    clear = CLEAR if stream.isatty() else ""
    try:
        while True:
            shown, done = of_run(config, snakefile)
            print(f"{clear}{shown}", file=stream, flush=True)
            if done:
                return
            time.sleep(EVERY)
            if not clear:
                print(file=stream)
    except KeyboardInterrupt:
        print(file=stream)
