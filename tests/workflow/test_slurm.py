"""The workflow on a SLURM cluster of two nodes, started on this machine: `make test-slurm`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import yaml

from universal_neurons.plan.config import resolve
from universal_neurons.plan.cost import asked
from universal_neurons.plan.grid import Grid

pytestmark = pytest.mark.slurm

SLURM = tiny.ROOT / "tests/workflow/slurm"
PROFILE = tiny.ROOT / "workflow/profiles/slurm/config.yaml"
# With memory cgroups SLURM confines jobs; without them it looks at their processes now and then.
CGROUPS = os.access("/sys/fs/cgroup/memory", os.W_OK) and os.getuid() == 0
# A killed job is OUT_OF_MEMORY, one of which only a process was killed FAILED.
TOO_MUCH_MEMORY = ("OUT_OF_MEMORY", "FAILED")

Job = dict[str, str]


class Cluster:
    """A running cluster."""

    def __init__(self, where: Path) -> None:
        conf = where / "etc/slurm.conf"
        path = f"{where}/bin:{os.environ['PATH']}"
        self.environment = tiny.environment(real=True, SLURM_CONF=str(conf), PATH=path)

    def call(self, *command: str) -> str:
        """What a SLURM command prints."""
        return subprocess.run(
            command, env=self.environment, text=True, capture_output=True, check=True
        ).stdout

    def jobs(self, where: Path) -> list[Job]:
        """All jobs submitted from a folder, finished ones too, with `rule` for their rule."""
        lines = self.call("scontrol", "show", "job", "--oneliner").splitlines()
        found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
        for job in found:
            # The folder of its log: rule_<rule>, or group_<group>_<its rules>.
            name = re.search(r"/(?:rule_(\w+)|group_([a-z]+)_)", job.get("StdOut", ""))
            job["rule"] = (name[1] or name[2]) if name else ""
        return [job for job in found if job.get("WorkDir") == str(where)]

    def wait_for(self, where: Path, wanted: Callable[[Job], Any], seconds: int = 600) -> Job:
        """The first job that is as wanted, once there is one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for job in self.jobs(where):
                if wanted(job):
                    return job
            time.sleep(0.5)
        raise TimeoutError(f"no such job; there are {self.jobs(where)}")

    def start(
        self, where: Path, *arguments: str, faults: dict[str, dict[str, int]] | None = None
    ) -> subprocess.Popen[str]:
        """Start Snakemake with the profile in `where`."""
        python_path = os.pathsep.join([str(SLURM / "faults"), os.environ.get("PYTHONPATH", "")])
        faulty = {"FAULTS": json.dumps(faults), "PYTHONPATH": python_path}
        return subprocess.Popen(
            tiny.command("--profile", "profile", *arguments),
            cwd=where,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self.environment, **(faulty if faults else {})},
        )

    def run(self, where: Path, *arguments: str, **options: Any) -> tuple[int, str]:
        """Run Snakemake to its end; exit code and what it printed."""
        return finish(self.start(where, *arguments, **options))


def finish(process: subprocess.Popen[str], seconds: int = 1500) -> tuple[int, str]:
    """Wait for a process; exit code and what it printed."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"still running after {seconds} s:\n{output}") from None
    return process.returncode, output


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    where = tmp_path_factory.mktemp("slurm")
    # Nodes may claim more than the machine has; jobs ask for more than a tiny grid takes.
    options = ["-i", "-n", "2", "-c", "8", "-m", "40000", *(["-g"] if CGROUPS else [])]
    subprocess.run([SLURM / "start-slurm.sh", *options, where], check=True)
    try:
        yield Cluster(where)
    finally:
        subprocess.run([SLURM / "stop-slurm.sh", where], check=True)


def prepare(where: Path, profile: dict[str, Any], **grid: Any) -> Grid:
    """A tiny grid in `where`, and the shipped profile with some changes in `where`/profile."""
    config = tiny.make(where, **grid)
    shipped = yaml.safe_load(PROFILE.read_text())
    # For a cluster that answers at once and jobs that take seconds.
    shipped["slurm-init-seconds-before-status-checks"] = 1
    shipped["max-status-checks-per-second"] = 2
    shipped["latency-wait"] = 10
    (where / "profile").mkdir()
    (where / "profile/config.yaml").write_text(yaml.safe_dump(shipped | profile))
    with chdir(where):
        return Grid.of(resolve(config))


def memory_mb(job: Job) -> int:
    """Memory that a job asked for."""
    number, unit = re.fullmatch(r"([\d.]+)([MG])", job["MinMemoryNode"]).groups()
    return round(float(number) * {"M": 1, "G": 1024}[unit])


def minutes(job: Job) -> int:
    """Run time that a job asked for."""
    days, hours, mins, _ = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", job["TimeLimit"]).groups()
    return (int(days or 0) * 24 + int(hours)) * 60 + int(mins)


def test_all_rules_run_where_the_profile_says_with_what_they_ask_for(cluster, tmp_path):
    gpu = {"slurm_partition": "gpu", "gpu": 1}
    grid = prepare(tmp_path, {"set-resources": {"capture_first": gpu, "capture": gpu}}, shards=2)
    code, output = cluster.run(tmp_path)
    assert code == 0, output
    jobs = cluster.jobs(tmp_path)
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    assert {job["NodeList"] for job in jobs} == {"n1", "n2"}
    for job in jobs:
        on_gpu = job["rule"] in ("capture_first", "capture")
        assert job["Partition"] == ("gpu" if on_gpu else "main"), job
        assert ("gpu" in job.get("TresPerJob", "")) == on_gpu, job
    by_rule = {job["rule"]: job for job in jobs}
    for rule in ("capture", "match", "rotations", "ablate"):
        asks = asked(grid, rule)
        assert memory_mb(by_rule[rule]) == asks.mem_mb
        assert minutes(by_rule[rule]) == asks.minutes
        assert int(by_rule[rule]["NumCPUs"]) == asks.threads
    assert not {"concatenate", "models", "figures", "report"} & set(by_rule)
    assert sum(job["rule"] == "tables" for job in jobs) == 1, "the joins are one job"
    matches = pd.read_parquet(tmp_path / "results/tiny/matches.parquet")
    assert len(matches) == 2 * 80
    assert (tmp_path / "results/tiny/report.html").is_file()


def logs_named(output: str, rule: str) -> list[Path]:
    """The existing log files of a rule's SLURM jobs that the output names."""
    found = re.findall(rf"\S*/slurm-logs/rule_{rule}/\S*?\d+\.log", output)
    return [path for path in map(Path, found) if path.is_file()]


def test_failures_are_named_with_reason_and_log_and_a_second_run_finishes(cluster, tmp_path):
    prepare(tmp_path, {"set-resources": {"rotations": {"runtime": 1}}})
    grid = "results/tiny"
    targets = [f"{grid}/rotations.zarr", f"{grid}/corpus/selection.json"]
    targets += [f"{grid}/calibration/seeda/step10.json"]
    long = {"sleep": 600}
    greedy = {"memory": 1500}  # more than the first attempt's 1000 MB, less than the second's
    process = cluster.start(
        tmp_path,
        "--retries",
        "0",
        *targets,
        faults={"rotations": long, "capture": long, "selection": greedy},
    )
    victim = cluster.wait_for(
        tmp_path, lambda job: job["rule"] == "capture_first" and job["JobState"] == "RUNNING"
    )
    cluster.call("scancel", victim["JobId"])
    code, output = finish(process)
    assert code != 0
    failed = {job["rule"]: job for job in cluster.jobs(tmp_path)}
    assert failed.pop("corpus")["JobState"] == "COMPLETED"
    states = {rule: job["JobState"] for rule, job in failed.items()}
    reasons = {"capture_first": ["CANCELLED"], "rotations": ["TIMEOUT"]}
    reasons["selection"] = list(TOO_MUCH_MEMORY)
    assert set(states) == set(reasons)
    for rule, state in states.items():
        assert state in reasons[rule]
        assert re.search(rf"Error in rule {rule}\b.*:", output), output
        message = f"SLURM-job '{failed[rule]['JobId']}' failed, SLURM status is: '{state}'"
        assert message in output
        assert logs_named(output, rule), f"no log of {rule} in:\n{output}"
    (log,) = logs_named(output, "selection")[:1]
    assert re.search("oom|memory", log.read_text(), re.IGNORECASE), "the log says why"

    code, output = cluster.run(tmp_path, *targets, faults={"selection": greedy})
    assert code == 0, output
    for target in targets:
        assert (tmp_path / target).exists()
    tries = [job for job in cluster.jobs(tmp_path) if job["rule"] == "selection"]
    tries.sort(key=lambda job: int(job["JobId"]))
    assert [memory_mb(job) for job in tries] == [1000, 1000, 2000]
    assert [minutes(job) for job in tries] == [5, 5, 10]
    *killed, last = (job["JobState"] for job in tries)
    assert set(killed) <= set(TOO_MUCH_MEMORY)
    assert last == "COMPLETED"


@pytest.mark.parametrize("requeue", [True, False])
def test_jobs_of_a_node_that_goes_down_run_on_the_other(cluster, tmp_path, requeue):
    own = {} if requeue else {"slurm-requeue": False, "slurm-no-requeue": True}
    prepare(tmp_path, own)
    target = "results/tiny/rotations.zarr"
    process = cluster.start(tmp_path, target, faults={"rotations": {"sleep": 8}})
    job = cluster.wait_for(tmp_path, lambda job: job["JobState"] == "RUNNING")
    node, other = job["NodeList"], {"n1": "n2", "n2": "n1"}[job["NodeList"]]
    cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        code, output = finish(process)
    finally:
        cluster.call("scontrol", "update", f"nodename={node}", "state=resume")
    assert code == 0, output
    assert (tmp_path / target).exists()
    jobs = cluster.jobs(tmp_path)
    last = max(jobs, key=lambda job: int(job["JobId"]))
    assert (last["JobState"], last["NodeList"]) == ("COMPLETED", other)
    if requeue:
        assert (len(jobs), last["Restarts"]) == (1, "1"), "SLURM itself starts it again"
    else:
        assert len(jobs) == 2
        assert f"SLURM-job '{job['JobId']}' failed due to a node failure" in output
        assert logs_named(output, "rotations")
