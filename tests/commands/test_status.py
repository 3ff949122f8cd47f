"""The status page counts the jobs of the dry run, by what their logs say, also while they run."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
import tiny
import yaml
from planning import grid

from universal_neurons.commands import at_work, status, time_left
from universal_neurons.commands.__main__ import main
from universal_neurons.commands.plans import Job
from universal_neurons.jobs import job
from universal_neurons.plan.config import resolve
from universal_neurons.plan.counts import counts
from universal_neurons.plan.grid import Grid

NOW = 1_000_000.0
RATES = {"int8": 1e6, "float32": 1e6, "model": 1e6, "differences": 1e6}
DONE, GOING = "10:00:00 done in 3.0 s\n", "10:00:00 500 of 1,000 tokens, 50 per second\n"
# Logs of jobs still to do: what they say, and how many seconds ago.
LEFT = {
    "capture/seeda/step2.log": (DONE, 0),  # to be done again
    "capture/seedb/step1.log": (GOING, 5),
    "capture/seedb/step2.log": (GOING, 5000),
    "capture/seedb/step3.log": ("", 1),
    "capture/seedb/step4.log": ("10:00:00 stopped\n", 1),
    "matches/a/b.log": ("10:00:00 error: x.zarr: damaged\n", 9000),
    "matches/a/c.log": ("10:00:00 unexpected error\nTraceback (most …):\nzarr.NotFound: 'x'\n", 1),
    "matches/a/d.log": (None, 0),
    "matches/a/e.log": ("", 9000),
    "report.log": (None, 0),
}
RULE = {"capture": "capture", "matches": "match", "report.log": "report"}
OBSOLETE = ["ablate/seedsa+z/step1.log", "capture/seedz/step1.log"]


@pytest.fixture
def results(tmp_path):
    logs = {**LEFT, **dict.fromkeys(OBSOLETE, (DONE, 0))}
    for name, (text, age) in logs.items():
        if text is not None:
            log = tmp_path / "logs" / name
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(text)
            os.utime(log, (NOW - age, NOW - age))
    (tmp_path / "activations").mkdir()
    (tmp_path / "activations/chunk").write_bytes(bytes(30_000_000))
    return tmp_path


def found(results) -> dict[str, status.Rule]:
    jobs = [Job(RULE[name.split("/")[0]], None, results / "logs" / name, None) for name in LEFT]
    whole = {"capture": 8, "match": 4, "score": 2, "report": 1, "all": 1}
    return status.rules(whole, [*jobs, Job("all", None, None, None)], {}, NOW)


def names(jobs) -> list[str]:
    return [job.log.name for job in jobs if job.log]


def test_every_job_of_the_grid_is_counted_once_by_what_its_log_says(results):
    capture, match, score, report, whole = found(results).values()
    assert capture.done == 8 - 5
    assert names(capture.waiting) == ["step2.log", "step4.log"]
    assert names(capture.running) == ["step1.log", "step3.log"], "an empty log is of a job at work"
    assert names(capture.silent) == ["step2.log"]
    assert match.done == 0
    assert names(match.failed) == ["b.log", "c.log"]
    assert (names(match.waiting), names(match.silent)) == (["d.log"], ["e.log"])
    assert (score.done, report.done, whole.done) == (2, 0, 0)


def test_a_job_at_work_counts_as_running_before_it_has_a_log(results):
    """Whatever the log says of an earlier job."""
    logs = {"new": "none", "again": "capture/seeda/step2.log", "failed": "matches/a/b.log"}
    jobs = {n: Job("x", Path(n), results / "logs" / log, None) for n, log in logs.items()}
    jobs["killed"] = Job("x", Path("killed"), None, None)
    begun = {Path("new"): NOW, Path("again"): NOW + 1, Path("failed"): NOW - 9100}
    begun[Path("killed")] = NOW - 5000
    (rule,) = status.rules({}, jobs.values(), begun, NOW).values()
    assert rule.running == [jobs["new"], jobs["again"]]
    assert rule.silent == [jobs["killed"]]
    assert rule.failed == [jobs["failed"]]
    assert "none: has just begun" in status.page(results, {"x": rule}, 1)


def test_jobs_at_work_are_those_that_snakemake_has_begun(tmp_path):
    """A job of a real run looks itself, under a name that Snakemake keeps in parts."""
    name = Path("a" * 250, "b" * 200)
    code = "from universal_neurons.commands.at_work import begun; print(*begun())"
    rule = (
        f'rule x:\n    output: "{name}"\n    shell: "{sys.executable} -c \'{code}\' > {{output}}"'
    )
    (tmp_path / "Snakefile").write_text(rule)
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    assert tiny.run(tmp_path, command).returncode == 0
    assert (tmp_path / name).read_text() == f"{name}\n"
    assert at_work.begun(tmp_path / at_work.SNAKEMAKE) == {}


def test_marks_count_on_this_machine_and_while_a_snakemake_holds_the_lock(tmp_path):
    lock = tmp_path / "locks/0.output.lock"
    for name, jobid in (("here", None), ("queued", "7")):
        mark = tmp_path / "incomplete" / urlsafe_b64encode(name.encode()).decode()
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(json.dumps({"external_jobid": jobid}))
    lock.parent.mkdir()
    lock.touch()
    assert list(at_work.begun(tmp_path)) == [Path("here")]
    lock.unlink()
    assert at_work.begun(tmp_path) == {}


def test_the_log_of_a_job_that_is_interrupted_says_that_it_was_stopped(tmp_path):
    log = tmp_path / "logs/x.log"
    with pytest.raises(KeyboardInterrupt), job(log):
        raise KeyboardInterrupt
    stopped = Job("x", Path("x"), log, None)
    (rule,) = status.rules({}, [stopped], {Path("x"): 0.0}, time.time()).values()
    assert rule.waiting == [stopped]


def test_the_page_shows_how_far_the_run_is_where_to_look_and_what_takes_room(results):
    page = status.page(results, found(results), 150.0)
    assert page.startswith(f"{results}: 5 of 16 jobs done (31 %), about 2.5 min left\n")
    assert re.search(r"^total +16 +5 +2 +7 +2$", page, re.MULTILINE)
    assert "error: x.zarr: damaged" in page
    assert "500 of 1,000 tokens, 50 per second" in page
    assert "step3.log: has just begun" in page
    assert "30 MB  activations" in page


def test_a_rounded_share_never_says_that_all_is_done(results):
    jobs = [Job("capture", None, None, None)]
    page = status.page(results, status.rules({"capture": 1000}, jobs, {}, NOW), 1)
    assert "999 of 1,000 jobs done (99 %)" in page


def benchmark(results, name, begun, seconds):
    path = results / "benchmarks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\n{seconds}\t0:00:00\n")
    os.utime(path, (begun + seconds, begun + seconds))
    return path


def test_the_time_left_is_that_of_finished_jobs_as_many_side_by_side(results):
    """Four captures of 10 s, two at a time, and a match of 4 s; then the machine was off."""
    for i in range(4):
        benchmark(results, f"capture/{i}.tsv", NOW + 10 * (i // 2), 10)
    benchmark(results, "matches/a.tsv", NOW + 100_000, 4)
    stale = benchmark(results, "capture/5.tsv", NOW, 9999)  # its job is to be done again
    left = {
        Job("capture", None, None, stale): 1.0,
        Job("capture", None, None, results / "benchmarks/capture/6.tsv"): 0.5,
        Job("match", None, None, results / "benchmarks/matches/b.tsv"): 1.0,
    }
    together = (40 + 4) / (20 + 4)
    found = time_left.seconds_left(results, left, grid())
    assert found == pytest.approx((10 + 5 + 4) / together)


def test_the_time_of_jobs_of_which_none_is_done_is_the_estimates(tmp_path, monkeypatch):
    monkeypatch.setattr(time_left, "rates", lambda: RATES)
    score, trace = (
        {Job(name, None, None, tmp_path / f"benchmarks/{name}/1.tsv"): 1.0}
        for name in ("score", "trace")
    )
    few, many = (time_left.seconds_left(tmp_path, left, grid()) for left in (score, trace))
    assert 0 < few < 10
    assert many > 100, "at a million operations per second"


def test_a_seed_added_brings_its_jobs_by_the_names_of_the_dry_run_and_no_obsolete_ones(
    local, monkeypatch
):
    where, config = local
    models = {**config["models"], "seeds": [*config["models"]["seeds"], "late"]}
    config = {**config, "models": models}
    (where / "late.yaml").write_text(yaml.safe_dump(config))
    plan = tiny.finish(where, "--dry-run", "--configfile", "late.yaml").stdout
    planned = {"all": 1, **tiny.jobs_in(plan)}
    monkeypatch.chdir(where)
    for name, value in tiny.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        time_left, "rates", lambda: dict.fromkeys(("int8", "float32", "model"), 1e9)
    )
    page, done = status.of_run("late.yaml", tiny.ROOT / "Snakefile")
    rows = re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", page, re.MULTILINE)
    jobs = {name: int(number) for name, number, *_ in rows}
    whole = counts(Grid.of(resolve(config)))
    assert not done
    assert jobs == {**whole, "total": whole.total()}
    left = {row[0]: int(row[1]) - int(row[2]) for row in rows if row[0] != "total"}
    assert {name: number for name, number in left.items() if number} == planned


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_watching_draws_again_until_all_is_done(monkeypatch):
    pages = iter([("one", False), ("two", False), ("three", True)])
    monkeypatch.setattr(status, "of_run", lambda *given: next(pages))
    monkeypatch.setattr(status, "EVERY", 0)
    shown = Terminal()
    status.watch("config.yaml", stream=shown)
    assert shown.getvalue() == "".join(f"{status.CLEAR}{n}\n" for n in ("one", "two", "three"))


def test_watching_ends_by_ctrl_c_without_a_traceback(monkeypatch, capsys):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "of_run", lambda *given: ("one", False))
    monkeypatch.setattr(status.time, "sleep", interrupted)
    main(["status", "--watch"])
    assert capsys.readouterr().out == "one\n\n"


@pytest.mark.slow
def test_the_status_of_a_run_that_failed_and_of_one_that_is_done(tmp_path):
    tiny.make(tmp_path)
    total = 1 + sum(tiny.planned(tmp_path).values())

    def page() -> str:
        return tiny.universal_neurons(tmp_path, "status").stdout

    weights = tmp_path / "models/b/10/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    assert tiny.snakemake(tmp_path).returncode != 0
    said = page()
    assert "Failed:\n  results/tiny/logs/capture/seedb/step10/shard0.log:" in said
    assert said.split("capture_first")[1].split()[:5] == ["2", "1", "0", "0", "1"]
    weights.write_bytes(content)
    assert tiny.snakemake(tmp_path).returncode == 0
    said = page()
    assert "Failed" not in said
    assert f"{total} of {total} jobs done (100 %)\n" in said
