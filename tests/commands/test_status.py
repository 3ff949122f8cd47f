"""The status page counts jobs by what their logs say, also while they run."""

from __future__ import annotations

import os

import pytest
import tiny

from universal_neurons.commands import status

NOW = 1_000_000.0
LOGS = {
    "capture/seeda/step1.log": ("10:00:00 done in 3.0 s\n", False, 0),
    "capture/seeda/step2.log": ("10:00:00 done in 3.0 s\n", True, 0),  # to be done again
    "capture/seedb/step1.log": ("10:00:00 500 of 1,000 tokens, 50 per second\n", True, 5),
    "capture/seedb/step2.log": ("10:00:00 500 of 1,000 tokens, 50 per second\n", True, 5000),
    "match/a/b.log": ("10:00:00 error: x.zarr: damaged\n", True, 9000),
    "match/a/c.log": ("Traceback (most recent call last):\nKeyError: 'x'\n", True, 9000),
    "match/a/d.log": (None, True, 0),
    "match/a/e.log": ("", True, 1),
    "report.log": (None, True, 0),
}


@pytest.fixture
def results(tmp_path):
    for name, (text, _, age) in LOGS.items():
        if text is not None:
            log = tmp_path / "logs" / name
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(text)
            os.utime(log, (NOW - age, NOW - age))
    (tmp_path / "activations").mkdir()
    (tmp_path / "activations/chunk").write_bytes(bytes(30_000_000))
    return tmp_path


def plan(results) -> str:
    jobs = [f"rule x:\n    log: {results}/logs/{n}\n" for n, (_, left, _) in LOGS.items() if left]
    return "Job stats:\n" + "".join(jobs) + "    log: elsewhere/other.log\n"


def test_every_job_is_counted_once_by_what_its_log_says(results):
    found = status.rules(results, status.planned_logs(plan(results)), NOW)
    assert list(found) == ["capture", "match", "report"]
    capture, match, report = found.values()
    assert (capture.done, capture.waiting) == (1, 1)
    assert [log.parent.name for log in capture.running] == ["seedb"]
    assert [log.name for log in capture.silent] == ["step2.log"]
    assert (match.done, match.waiting) == (0, 2)
    assert [log.name for log in match.failed] == ["b.log", "c.log"]
    assert report.waiting == 1


def test_the_page_shows_where_to_look_and_what_takes_room(results):
    page = status.page(results, plan(results), NOW)
    assert "error: x.zarr: damaged" in page
    assert "500 of 1,000 tokens, 50 per second" in page
    assert "0.03 GB  activations" in page


def test_the_status_of_a_run_that_failed_and_of_one_that_is_done(tmp_path):
    config = tiny.make(tmp_path)

    def page() -> str:
        return tiny.universal_neurons(tmp_path, "status").stdout

    weights = tmp_path / "models/b/10/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    assert tiny.snakemake(tmp_path).returncode != 0
    said = page()
    assert "Failed:\n  results/tiny/logs/capture/seedb/step10/shard0.log:" in said
    assert said.split("capture")[1].split()[:4] == ["1", "0", "0", "1"]
    weights.write_bytes(content)
    assert tiny.snakemake(tmp_path).returncode == 0
    said = page()
    assert "Failed" not in said
    assert said.split("capture")[1].split()[:4] == ["2", "0", "0", "0"]
    tiny.configure(tmp_path, {**config, "runn": "x"})
    assert "runn: unknown key; did you mean run?" in page()
