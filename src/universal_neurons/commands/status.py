"""How far a run is, on one page: ``make status``.

Every job has a log under `logs/`, which ends with "done" or with an error; a plan of the jobs still
to do names their logs too. So counting logs is all it takes, also while the run goes on elsewhere.
The plan is a dry run's: the table of ``snakemake --summary`` has a line per file, not per job, and
no log for a job that has not run yet.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from universal_neurons.commands.plans import dry_run
from universal_neurons.plan.config import load_config

# A running job says how far it is every 10 s; a job that was silent for longer than this was most
# likely killed.
SILENT_SECONDS = 600


@dataclass
class Rule:
    """The jobs of a rule.

    Attributes
    ----------
    done
        Number of jobs whose results stand.
    waiting
        Number of jobs that have not begun.
    running, silent, failed
        Logs of the jobs that are at work, that stopped without a word, and that failed.
    """

    done: int = 0
    waiting: int = 0
    running: list[Path] = field(default_factory=list)
    silent: list[Path] = field(default_factory=list)
    failed: list[Path] = field(default_factory=list)


def planned_logs(plan: str) -> set[Path]:
    """Logs of the jobs in a dry run's output."""
    return {Path(name) for name in re.findall(r"^    log: (\S.*?)(?: \(.*)?$", plan, re.MULTILINE)}


def rules(results: str | Path, planned: Iterable[Path], now: float) -> dict[str, Rule]:
    """Sort the jobs of a run by what their logs say.

    Parameters
    ----------
    results
        Directory ``results/<run>``.
    planned
        Logs of the jobs still to do, as `planned_logs` finds them.
    now
        Seconds since the epoch.

    Returns
    -------
    dict
        By the first folder of their logs, the rules in alphabetical order.
    """
    folder, left = Path(results) / "logs", set(planned)
    found: dict[str, Rule] = {}
    for log in sorted(left.union(folder.rglob("*.log"))):
        if folder not in log.parents:
            continue
        rule = found.setdefault(log.relative_to(folder).parts[0].removesuffix(".log"), Rule())
        if log not in left:
            rule.done += 1
            continue
        last = last_line(log)
        if last is None or re.match(r"[\d:]+ done in ", last):
            # Not begun, or done before and to be done again.
            rule.waiting += 1
        elif re.match(r"[\d:]+ error: |\w*Error\b", last):
            rule.failed.append(log)
        elif now - log.stat().st_mtime > SILENT_SECONDS:
            rule.silent.append(log)
        else:
            rule.running.append(log)
    return found


def last_line(log: Path) -> str | None:
    """The last line of a log that has one."""
    if not log.is_file():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), None)


def page(results: str | Path, plan: str, now: float) -> str:
    """The page: jobs by rule, what is at work and what failed, and room on disk.

    Parameters
    ----------
    results, now
        See `rules`.
    plan
        Output of a dry run.
    """
    found = rules(results, planned_logs(plan), now)
    lines = [f"{'':<22}{'done':>8}{'running':>9}{'waiting':>9}{'failed':>8}"]
    for name, rule in found.items():
        counts = rule.done, len(rule.running), rule.waiting + len(rule.silent), len(rule.failed)
        lines.append(f"{name:<22}{counts[0]:>8,}{counts[1]:>9,}{counts[2]:>9,}{counts[3]:>8,}")
    for title, logs in (
        ("Running", [log for rule in found.values() for log in rule.running]),
        ("Stopped without a word", [log for rule in found.values() for log in rule.silent]),
        ("Failed", [log for rule in found.values() for log in rule.failed]),
    ):
        if logs:
            lines += ["", f"{title}:", *(f"  {log}: {last_line(log)}" for log in logs)]
    lines += ["", *(f"{size / 1e9:8.2f} GB  {name}" for name, size in sizes(results))]
    return "\n".join(lines)


def bytes_in(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def sizes(results: str | Path) -> list[tuple[str, int]]:
    """Bytes on disk of everything in a run's folder and of the whole, largest first."""
    parts = {
        entry.name: bytes_in(entry)
        for entry in (Path(results).iterdir() if Path(results).is_dir() else ())
    }
    whole = [("in all", sum(parts.values()))]
    return whole + sorted(parts.items(), key=lambda part: -part[1])[:8]


def of_run(config: str | Path, snakefile: Path | None = None) -> str:
    """The status page of a run.

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
    run = load_config(config)["run"]
    return page(Path("results", run), dry_run(Path(config), snakefile), time.time())
