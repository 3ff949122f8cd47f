"""How long the rest of a run takes, going by what its finished jobs took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from universal_neurons.commands.estimate import rates
from universal_neurons.commands.plans import Job
from universal_neurons.plan.grid import Grid
from universal_neurons.plan.shares import shares


@dataclass(frozen=True, order=True)
class Span:
    """When a job began and ended, in seconds since the epoch."""

    begun: float
    ended: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended - self.begun


def seconds_left(results: str | Path, left: Mapping[Job, float], grid: Grid) -> float:
    """Seconds until all jobs are done.

    A job takes what finished ones of its kind took, and as many run side by side as ran so far;
    jobs of a kind that none is finished of take what the estimate says.

    Parameters
    ----------
    results
        Directory ``results/<run>``.
    left
        The jobs still to do, and what part of each.
    grid
        Of the run.
    """
    folder = Path(results) / "benchmarks"
    taken = _finished(folder, {job.benchmark for job in left})
    seconds, others = 0.0, defaultdict[str, float](float)
    for job, part in left.items():
        spans = taken.get(_kind(folder, job.benchmark)) if job.benchmark else None
        if spans:
            seconds += part * fmean(span.seconds for span in spans)
        else:
            others[job.rule] += part
    estimated = shares(grid, others).values()
    # Measuring this machine takes seconds.
    speed = rates() if any(share.work for share in estimated) else {}
    together = side_by_side(span for spans in taken.values() for span in spans)
    return seconds / together + sum(share.seconds(speed) for share in estimated)


def side_by_side(spans: Iterable[Span]) -> float:
    """How many jobs ran at a time, on average while any did; 1 where there were none."""
    work = busy = 0.0
    until = float("-inf")
    for span in sorted(spans):
        work += span.seconds
        busy += max(0.0, span.ended - max(span.begun, until))
        until = max(until, span.ended)
    return work / busy if busy else 1.0


def _finished(folder: Path, left: Collection[Path | None]) -> dict[str, list[Span]]:
    """Times of the jobs that are done, by kind, from Snakemake's benchmark files."""
    found = defaultdict[str, list[Span]](list)
    for path in folder.rglob("*.tsv"):
        if path not in left:
            found[_kind(folder, path)].extend(_spans(path))
    return found


def _kind(folder: Path, benchmark: Path) -> str:
    """What jobs have in common that take about the same time."""
    return benchmark.relative_to(folder).parts[0]


def _spans(path: Path) -> Iterator[Span]:
    """The span of a benchmark file that is whole."""
    with suppress(FileNotFoundError):
        ended, lines = path.stat().st_mtime, path.read_text().splitlines()
        if len(lines) > 1:
            yield Span(ended - float(lines[1].split("\t")[0]), ended)
