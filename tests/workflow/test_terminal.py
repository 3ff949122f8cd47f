"""What a run prints: progress, stages, errors with the end of the log; the whole log in a file."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tiny

from snakemake_logger_plugin_stages import QUIET, Job, Progress, duration
from universal_neurons import jobs

SNAKEFILE = """
rule all:
    input: "selection", "score"

rule corpus:
    output: "corpus"
    log: "logs/corpus.log"
    script: "job.py"

rule selection:
    input: "corpus"
    output: "selection"
    log: "logs/selection.log"
    script: "job.py"

rule score:
    input: "corpus"
    output: touch("score")
"""
JOB = """
import logging, os
from pathlib import Path
from universal_neurons.errors import UserError
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    logging.getLogger("universal_neurons").info("at work")
    logging.getLogger("universal_neurons").warning("few tokens")
    if snakemake.rule == os.environ.get("FAILS"):
        raise (UserError if os.environ["HOW"] == "user" else ValueError)("no such thing")
    Path(snakemake.output[0]).touch()
"""


@pytest.fixture
def where(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "profiles").symlink_to(tiny.ROOT / "workflow/profiles")
    return tmp_path


def command(*arguments):
    return [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]


def run(where, *arguments, **env):
    return subprocess.run(
        command(*arguments),
        cwd=where,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **env},
        check=False,
    )


@pytest.mark.slow
def test_a_run_prints_stages_warnings_and_where_the_log_is(where):
    done = run(where)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert "4 jobs to do" in lines
    # In the order in which they end, which is for the scheduler to say.
    stages = [line.split()[:3] for line in lines if line.startswith(("prepare", "score"))]
    assert sorted(stages) == [["prepare", "2", "jobs"], ["score", "1", "job"]]
    assert lines.count("warning: few tokens") == 2
    assert len(lines) < 12
    (log,) = (line.split(": ")[1] for line in lines if line.startswith("Complete log"))
    assert "rule selection:" in Path(log).read_text()
    assert "at work" in (where / "logs/corpus.log").read_text()
    again = run(where)
    assert "Nothing to be done" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("how", ["user", "bug"])
def test_a_failed_job_is_named_with_the_end_of_its_log_and_what_to_do(where, how):
    done = run(where, FAILS="selection", HOW=how)
    assert done.returncode == 1
    assert done.stdout.count("Error in rule selection:") == 1
    assert done.stdout.count("rror: no such thing") == 1
    assert ("Traceback" in done.stdout) == (how == "bug")
    assert "run the same command again" in done.stdout
    assert "Failed: selection; " in done.stdout


def test_what_the_log_may_not_hold_is_printed_too(tmp_path):
    """A watched job leaves its error to the log, except where the log's disk is the trouble."""
    assert QUIET == jobs.QUIET
    said = {}
    for error in ("UserError('no such thing')", "OSError(errno.ENOSPC, 'full')"):
        code = (
            "import errno\n"
            "from universal_neurons.errors import UserError\n"
            "from universal_neurons.jobs import job\n"
            f"with job('job.log'): raise {error}"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            env={**os.environ, QUIET: "1"},
            check=False,
        )
        assert done.returncode == 1
        said[error[0]] = done.stderr, (tmp_path / "job.log").read_text()
    assert said["U"][0] == ""
    assert "error: no such thing" in said["U"][1]
    assert all("the disk is full" in text for text in said["O"])


@pytest.mark.slow
def test_a_dry_run_and_a_run_that_prints_all_are_snakemakes_own(where):
    dry = run(where, "--dry-run")
    assert "Job stats:" in dry.stdout
    assert "rule corpus:" in dry.stdout
    full = run(where, "--printshellcmds")
    assert "rule corpus:" in full.stdout
    assert "at work" in full.stdout


@pytest.mark.slow
def test_a_terminal_has_one_line_that_changes(where):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command(), cwd=where, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0
    text = said.decode()
    assert "0 of 4 jobs · prepare 0/2" in text
    assert "jobs" not in text.rpartition("\x1b[K")[2], "the line is taken away at the end"


def test_the_time_left_is_that_of_earlier_jobs_of_the_same_rule():
    progress = Progress(0.0, 4, Counter(capture=2, match=2))
    for jobid, (rule, start, end) in enumerate([("capture", 0, 10), ("match", 10, 12)]):
        progress.begin(jobid, Job(rule, {}, start))
        progress.end(jobid, end)
    assert progress.left(12.0) == pytest.approx(12.0)
    progress.begin(2, Job("match", {}, 12.0))
    assert progress.line(12.0) == "2 of 4 jobs · correlate 1/2 · about 12 s left"
    assert [duration(s) for s in (7, 130, 7200)] == ["7 s", "2 min", "2.0 h"]


def test_the_last_job_of_a_stage_ends_it():
    progress = Progress(0.0, 2, Counter(capture_first=1, capture=1))
    progress.begin(0, Job("capture_first", {}, 0.0))
    progress.begin(1, Job("capture", {}, 0.0))
    assert progress.end(0, 1.0) is None
    assert progress.end(1, 2.0) == "capture"
