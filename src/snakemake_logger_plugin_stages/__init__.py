"""What Snakemake prints while the workflow runs: how far it is, and what is wrong.

Snakemake finds this package by its name; the default profile asks for it (`logger: stages`). Its
own output, thousands of lines for the demo, goes to the file under `.snakemake/log` that is named
at the end. Dry runs, and runs with --quiet, --verbose or --printshellcmds, print what Snakemake
always prints.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

# Which stage of the workflow a rule is of, in the order of the stages.
STAGES = {
    "prepare": "fetch fetch_tokenizer tokenizer corpus selection train",
    "capture": "capture_first capture restore direct_first direct direct_more",
    "correlate": "correlate rotations rotated_std given match similarity screen refine permuted "
    "untrained random_directions",
    "score": "influence score",
    "ablate": "ablate doses effects mediate",
    "persist": "trace persistence trajectories",
    "describe": "vocabulary describe examples contexts concatenate_described concatenate_examples "
    "concatenate_contexts",
    "report": "concatenate concatenate_ablation concatenate_doses join_effects neurons subsets "
    "models figures report explorer all",
}
STAGE_OF = {rule: stage for stage, rules in STAGES.items() for rule in rules.split()}

# Jobs that find this in their environment leave the terminal to this package; see
# `universal_neurons.jobs`.
QUIET = "UNIVERSAL_NEURONS_QUIET"

# What Snakemake says at every run and every step of it.
CHATTER = re.compile(
    "None$|Assuming unrestricted|Building DAG|Using shell|Provided|Rules claiming|Conda env"
    "|Singularity|Group jobs|Select jobs|Execute |Removing temporary|Elapsed time|Shutting down"
    "|Exiting because|host:|Job stats|RuleException:\\s+CalledProcessError|Using workflow specific"
)
# What it says at the end of a run in which a job failed.
FAILED = "At least one job did not complete successfully"
# What it says when somebody interrupts it; the jobs that it ends then count as failed.
STOPPED = "Terminating processes on user request"
# How it tells of a job that was killed, by itself or by way of a shell.
KILLED = re.compile("SIGKILL|exit status 137")
TAIL = 15  # lines of a failed job's log
PLAIN_SECONDS = 10  # between lines where there is no terminal


@dataclass
class Job:
    """A job that was started."""

    rule: str
    wildcards: dict[str, Any]
    start: float


@dataclass
class Progress:
    """How far a run is. Times are seconds of a clock that the caller reads."""

    start: float
    total: int = 0
    planned: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    began: dict[str, float] = field(default_factory=dict)
    running: dict[int, Job] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Number of jobs done."""
        return self.finished.total()

    def begin(self, jobid: int, job: Job) -> None:
        """Take note of a job that starts."""
        self.running[jobid] = job
        self.began.setdefault(stage_of(job.rule), job.start)

    def end(self, jobid: int, now: float) -> str | None:
        """Take note of a job that is done; returns its stage if that is the last one of it."""
        job = self.running.pop(jobid, None)
        if job is None:
            return None
        self.finished[job.rule] += 1
        self.seconds[job.rule] += now - job.start
        stage = stage_of(job.rule)
        done, of = self.of_stage(stage)
        return stage if done == of else None

    def of_stage(self, stage: str) -> tuple[int, int]:
        """Jobs done and jobs planned of a stage."""
        return tuple(
            sum(count for rule, count in counts.items() if stage_of(rule) == stage)
            for counts in (self.finished, self.planned)
        )  # type: ignore[return-value]

    def left(self, now: float) -> float | None:
        """Seconds left, if later jobs take what earlier ones of their rule took."""
        spent = sum(self.seconds.values())
        if not self.done or not spent:
            return None
        work = sum(
            (count - self.finished[rule])
            * (
                self.seconds[rule] / self.finished[rule]
                if self.finished[rule]
                else spent / self.done
            )
            for rule, count in self.planned.items()
        )
        side_by_side = spent / max(now - self.start, 1e-9)
        return work / side_by_side

    def line(self, now: float) -> str:
        """The line of progress."""
        parts = [f"{self.done} of {self.total} jobs"]
        at_work = Counter(stage_of(job.rule) for job in self.running.values())
        for stage in [stage for stage in STAGES if stage in at_work] or list(at_work):
            done, of = self.of_stage(stage)
            parts.append(f"{stage} {done}/{of}")
        left = self.left(now)
        if left is not None and self.done < self.total:
            parts.append(f"about {duration(left)} left")
        return " · ".join(parts)


def stage_of(rule: str) -> str:
    """The stage of a rule; rules of another workflow are stages of their own."""
    return STAGE_OF.get(rule, rule)


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def bar(done: int, total: int, width: int = 20) -> str:
    """A bar of progress."""
    full = width * done // max(total, 1)
    return "━" * full + "╺" * (full < width) + " " * (width - full - 1)


def tail(log: str) -> list[str]:
    """The last lines of a log."""
    try:
        lines = Path(log).read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.strip()][-TAIL:]


class Printer:
    """Lines that stay, and on a terminal one below them that changes."""

    def __init__(self, stream: TextIO, color: bool) -> None:
        self.stream = stream
        self.terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self.color = color and self.terminal and "NO_COLOR" not in os.environ

    def say(self, text: str, color: int | None = None) -> None:
        """Print lines that stay."""
        if color is not None and self.color:
            text = f"\x1b[{color}m{text}\x1b[0m"
        self._write(f"{self._clear()}{text}\n")

    def status(self, text: str) -> None:
        """Print the line that changes; the cursor stays in it."""
        width = shutil.get_terminal_size().columns - 1
        self._write(f"{self._clear()}{text[:width]}")

    def clear(self) -> None:
        """Take the changing line away."""
        self._write(self._clear())

    def _clear(self) -> str:
        return "\r\x1b[K" if self.terminal else ""

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):  # nobody reads any more
            pass


class LogHandler(LogHandlerBase):
    """Snakemake's handler of log messages, as its plugin interface asks for it."""

    def __post_init__(self) -> None:
        settings = self.common_settings
        self._as_always: logging.Handler | None = None
        if (
            any((settings.dryrun, settings.verbose, settings.debug_dag, settings.printshellcmds))
            or settings.quiet
        ):
            self._as_always = as_always(settings)
            return
        os.environ[QUIET] = "1"
        self._printer = Printer(sys.stderr, not settings.nocolor)
        self._progress: Progress | None = None
        self._failed: dict[tuple[int, float], str] = {}
        self._jobs: dict[int, Job] = {}
        self._said = time.monotonic()
        self._stopped = False
        self._over = threading.Event()
        if self._printer.terminal:
            threading.Thread(target=self._refresh, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a message tells a person."""
        if self._as_always is not None:
            self._as_always.handle(record)
            return
        try:
            self._handle(record)
        except Exception:
            self.handleError(record)

    def _handle(self, record: Any) -> None:
        event, now = getattr(record, "event", None), time.monotonic()
        if event == LogEvent.RUN_INFO:
            counts = {rule: int(n) for rule, n in record.stats.items() if rule != "total"}
            self._progress = Progress(now, sum(counts.values()), Counter(counts))
            self._printer.say(f"{self._progress.total} jobs to do")
        elif event == LogEvent.JOB_INFO:
            job = Job(record.rule_name, dict(record.wildcards or {}), now)
            self._jobs[record.jobid] = job
            if self._progress:
                self._progress.begin(record.jobid, job)
        elif event == LogEvent.JOB_FINISHED and self._progress:
            stage = self._progress.end(record.job_id, now)
            if stage:
                _, jobs = self._progress.of_stage(stage)
                took = duration(now - self._progress.began[stage])
                noun = "job" if jobs == 1 else "jobs"
                self._printer.say(f"{stage:<10}{jobs:>6} {noun:<4} {took:>7}", 32)
        elif event == LogEvent.JOB_ERROR:
            if not self._stopped:
                self._say_failed(record)
        elif event is None and record.levelno < logging.WARNING:
            message = str(record.getMessage())
            self._stopped |= message.startswith(STOPPED)
            if not CHATTER.match(message):
                self._printer.say(message.strip("\n"))
        elif event in (None, LogEvent.ERROR, LogEvent.GROUP_ERROR):
            message = self.format(record).strip("\n")
            if FAILED in message and (self._failed or self._stopped):
                names = ", ".join(self._failed.values())
                message = f"Failed: {names}" if names else "Stopped: the same command goes on"
                if self._progress:
                    message += f"; {self._progress.done} of {self._progress.total} jobs are done"
            if KILLED.search(message):
                message = (
                    "A job was killed (SIGKILL), as the system does when memory runs out: run "
                    "fewer side by side (--cores, or --resources mem_mb=...), or take smaller "
                    "batches (capture.batch_tokens)"
                )
            if message and not CHATTER.match(message):
                self._printer.say(message, 31 if record.levelno >= logging.ERROR else 33)
        self._show()

    def _say_failed(self, record: Any) -> None:
        """Which job failed, how its log ends, and what to do; once, Snakemake says it twice."""
        job = self._jobs.get(record.jobid)
        start = job.start if job else 0.0
        if (record.jobid, start) in self._failed:
            return
        if self._progress:
            self._progress.running.pop(record.jobid, None)
        of = ", ".join(f"{name} {value}" for name, value in job.wildcards.items()) if job else ""
        name = f"{record.rule_name} ({of})" if of else record.rule_name
        self._failed[record.jobid, start] = name
        say = self._printer.say
        say(f"Error in rule {name}:", 31)
        if record.rule_msg:
            say(f"  {record.rule_msg}")
        for log in record.log:
            lines = tail(log)
            say(f"  the log {log} {'ends with' if lines else 'is empty or not there'}", 31)
            for line in lines:
                say(f"    {line}")
        if not record.log and record.output:
            say(f"  it makes {', '.join(map(str, record.output))}")
        say("  What is finished stays: mend it and run the same command again.", 31)

    def _show(self) -> None:
        """The line of progress: always on a terminal, else now and then."""
        progress, now = self._progress, time.monotonic()
        if progress is None or not progress.running:
            return
        if self._printer.terminal:
            share = f"{progress.done / max(progress.total, 1):4.0%}"
            self._printer.status(
                f"{bar(progress.done, progress.total)} {share} {progress.line(now)}"
            )
        elif now - self._said >= PLAIN_SECONDS:
            self._said = now
            self._printer.say(f"{time.strftime('%H:%M:%S')} {progress.line(now)}")

    def _refresh(self) -> None:
        while not self._over.wait(1.0):
            self.acquire()
            try:
                if not self._over.is_set():
                    self._show()
            finally:
                self.release()

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._as_always is None and not self._over.is_set():
            self._over.set()
            self._printer.clear()
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """It takes the place of Snakemake's own output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """The log file is Snakemake's."""
        return False

    @property
    def has_filter(self) -> bool:
        """It chooses what it prints."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Snakemake's formatter writes what is not handled here."""
        return False

    @property
    def needs_rulegraph(self) -> bool:
        """It counts jobs only."""
        return False


def as_always(settings: Any) -> logging.Handler:
    """The handler that Snakemake uses where none is asked for."""
    from snakemake import logging as own

    return own.ColorizingTextHandler(
        nocolor=settings.nocolor,
        stream=sys.stdout if settings.stdout else sys.stderr,
        formatter=own.DefaultFormatter(settings.quiet, settings.show_failed_logs),
        filter=own.DefaultFilter(
            settings.quiet,
            settings.debug_dag,
            settings.verbose,
            settings.dryrun,
            settings.printshellcmds,
        ),
    )
