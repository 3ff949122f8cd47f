"""A full disk, a folder that can't be written, two runs at once: said plainly, nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import tiny

from universal_neurons.errors import UserError
from universal_neurons.jobs import job
from universal_neurons.store.files import check_writable


@pytest.fixture
def small_disk(tmp_path):
    """A folder `results` on a disk of its own; gives its options another value."""

    def mount(*arguments: str) -> bool:
        done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
        return done.returncode == 0

    folder = tmp_path / "results"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=400k", "none", str(folder)):
        pytest.skip("only root can mount a small disk")
    yield lambda options: mount("-o", f"remount,{options}", str(folder))
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_and_a_read_only_disk_stop_a_run_with_a_message_and_it_goes_on_after(
    tmp_path, small_disk
):
    tiny.make(tmp_path, shards=2)
    full = tiny.snakemake(tmp_path, real=True)
    assert full.returncode != 0
    assert "the disk is full or the quota used up" in full.stdout
    assert "run the same command again" in full.stdout
    assert "Traceback" not in full.stdout
    assert small_disk("size=100m")
    assert small_disk("ro")
    read_only = tiny.snakemake(tmp_path, real=True)
    assert read_only.returncode != 0
    assert f"{tmp_path}/results/tiny: can't be written; make it writable" in read_only.stdout
    assert "rule " not in read_only.stdout
    assert small_disk("rw")
    again = tiny.snakemake(tmp_path, "results/tiny/universality.parquet", real=True)
    assert again.returncode == 0, again.stdout
    assert "rule corpus:" not in again.stdout, "what was finished stays"
    assert len(pd.read_parquet(tmp_path / "results/tiny/universality.parquet")) == 2 * 80


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_told_and_disturbs_nothing(tmp_path):
    tiny.make(tmp_path)
    first = subprocess.Popen(
        tiny.command("--cores", "2", "results/tiny/universality.parquet"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=tiny.environment(real=True),
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 120
        while not list(tmp_path.glob("results/tiny/corpus/*")) and time.monotonic() < until:
            time.sleep(0.2)
        second = tiny.snakemake(tmp_path, real=True)
        assert second.returncode != 0
        assert "Directory cannot be locked" in second.stdout
        assert "rule " not in second.stdout
        assert first.wait(timeout=300) == 0
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    assert (tmp_path / "results/tiny/universality.parquet").exists()


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left on device")],
)
def test_a_full_disk_is_named_however_a_library_says_it(tmp_path, capsys, error):
    outer = ValueError("something else")
    outer.__cause__ = error
    with pytest.raises(SystemExit), job(tmp_path / "job.log"):
        raise outer
    for said in (capsys.readouterr().err, (tmp_path / "job.log").read_text()):
        assert "the disk is full" in said
        assert str(tmp_path) in said
        assert "Traceback" not in said


def test_a_disk_without_inodes_is_told_from_one_without_room(tmp_path, small_disk, capsys):
    folder, log = tmp_path / "results", tmp_path / "results/logs/job.log"

    def work():
        # The disk's folder, that of the log, the log, and one file.
        assert small_disk("nr_inodes=4")
        (folder / "one").touch()
        (folder / "another").touch()

    with pytest.raises(SystemExit), job(log):
        work()
    said = f"the disk holds no more files (all 4 inodes at {folder}"
    assert said in capsys.readouterr().err
    assert said in log.read_text()


def test_a_job_whose_log_no_disk_takes_says_so_all_the_same(tmp_path, small_disk, capsys):
    assert small_disk("nr_inodes=1")
    with pytest.raises(SystemExit), job(tmp_path / "results/logs/deep/job.log"):
        pytest.fail("the job began")
    said = capsys.readouterr().err
    assert "the disk holds no more files (all 1 inodes at" in said
    assert "make room and run the same command again" in said
    assert "Traceback" not in said


def test_any_other_error_keeps_its_traceback(tmp_path, capsys):
    with pytest.raises(KeyError), job(tmp_path / "job.log"):
        raise KeyError("unforeseen")
    assert "Traceback" in (tmp_path / "job.log").read_text()


def test_a_folder_that_does_not_exist_yet_is_judged_by_where_it_would_be(tmp_path, monkeypatch):
    check_writable(tmp_path / "results/run")
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append(Path(path)) or False)
    with pytest.raises(UserError, match=f"{tmp_path}: can't be written"):
        check_writable(tmp_path / "results/run")
    assert asked == [tmp_path]
