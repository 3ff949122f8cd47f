"""Kill a run again and again at random moments: its tables must be those of an undisturbed run.

``python tests/support/kill.py --kills 50`` (or ``make kill-test N=50``) starts the tiny grid, sends
SIGKILL to its whole process group after a random time, and starts it again, until it is done; and
so on until there were as many kills as asked for.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tiny

TABLES = ["matches", "universality", "persistence", "ablation", "neurons", "models"]
TABLES += ["fractions", "groups", "nulls", "trajectories", "doses", "effects", "token_budget"]
TABLES += ["screening", "similarity", "examples", "contexts", "histograms", "activating_tokens"]
TABLES += ["vocabulary"]
ARGUMENTS = ("--cores", "2", "--quiet", "all", "--nolock", "--rerun-incomplete")


def start(where: Path) -> subprocess.Popen[bytes]:
    """Start Snakemake in a process group of its own; what it prints goes to run.log."""
    with (where / "run.log").open("ab") as log:
        return subprocess.Popen(
            tiny.command(*ARGUMENTS),
            cwd=where,
            stdout=log,
            stderr=log,
            env=tiny.environment(real=True),
            start_new_session=True,
        )


def run_with_kills(where: Path, kills: int, longest: float, rng: random.Random) -> int:
    """Run to the end, killing at most `kills` times; returns how often it was killed.

    Raises
    ------
    RuntimeError
        If a run fails other than by being killed.
    """
    for done in range(kills):
        process = start(where)
        try:
            process.wait(timeout=rng.uniform(0, longest))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            continue
        check(process, where)
        return done
    process = start(where)
    process.wait()
    check(process, where)
    return kills


def check(process: subprocess.Popen[bytes], where: Path) -> None:
    if process.returncode != 0:
        log = (where / "run.log").read_text()
        raise RuntimeError(f"exit code {process.returncode}; {where / 'run.log'}:\n{log[-5000:]}")


def content(path: Path) -> pa.Buffer:
    """A table's columns as bytes, so that NaN equals NaN and 0 differs from -0."""
    table = pq.read_table(path).combine_chunks().replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def differences(one: Path, other: Path) -> list[str]:
    """Names of the tables that are not equal to the bit."""
    return [
        name
        for name in TABLES
        if content(one / f"results/tiny/{name}.parquet")
        != content(other / f"results/tiny/{name}.parquet")
    ]


def left_over(where: Path) -> list[Path]:
    """What killed jobs left beside the results; it is never read."""
    return sorted((where / "results").rglob(".*.partial"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="kills in all")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "undisturbed")
        tiny.make(whole, steps=(10, 20), shards=2)
        begun = time.monotonic()
        run_with_kills(whole, 0, 0, rng)
        seconds = time.monotonic() - begun
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        total = runs = 0
        while total < options.kills:
            where = Path(folder, f"killed{runs}")
            tiny.make(where, steps=(10, 20), shards=2)
            # Short enough for several kills a run, long enough for every run to get somewhere.
            killed = run_with_kills(where, options.kills - total, seconds / 2, rng)
            total, runs = total + killed, runs + 1
            found = differences(whole, where)
            print(
                f"run {runs}: killed {killed} times, {total} in all; {len(left_over(where))} "
                f"partial outputs left; tables that differ: {', '.join(found) or 'none'}",
                flush=True,
            )
            if found:
                sys.exit(1)
            shutil.rmtree(where)


if __name__ == "__main__":
    main()
