"""What other tests rest on: forked commands end as real ones do, and digests see every bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fork_server
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from digest import digest, digests

SUPPORT = tiny.ROOT / "tests/support"


def running(what: str) -> list[int]:
    """Processes in whose environment or command line a text stands."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            about = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            here = os.readlink(process / "cwd")
        except OSError:
            continue
        if what.encode() in about or what == here:
            found.append(int(process.name))
    return found


def gone(what: str) -> bool:
    until = time.monotonic() + 30
    while running(what) and time.monotonic() < until:
        time.sleep(0.05)
    return not running(what)


def test_a_fork_prints_and_ends_as_the_process_would(tmp_path):
    missing = [sys.executable, "-m", "universal_neurons.commands", "status", "missing.yaml"]
    for command in (missing, tiny.command("--version"), tiny.command("--no-such-option")):
        real, forked = (tiny.run(tmp_path, command, real=real) for real in (True, False))
        assert real.returncode == forked.returncode
        assert real.stdout.splitlines()[-1:] == forked.stdout.splitlines()[-1:] != []


def test_a_killed_process_takes_its_forks_with_it(tmp_path):
    tiny.make(tmp_path)
    process = subprocess.Popen(
        tiny.command("--cores", "2"), cwd=tmp_path, env=tiny.environment(), start_new_session=True
    )
    while not list(tmp_path.glob("results/tiny/logs/**/*.log")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    assert len(running(str(tmp_path))) > 2, "Snakemake, a job and who waits for them"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert gone(str(tmp_path))


def test_the_server_ends_with_the_process_that_started_it(tmp_path):
    """Also where that was killed; its imports are stubs."""
    code = f"""
import sys
sys.path.insert(0, {str(SUPPORT)!r})
import fork_server
server = fork_server.Server({{"PATH": "", "PYTHONPATH": {str(tmp_path)!r}}})
server.wait()
print("started", flush=True)
sys.stdin.read()
"""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if sys.argv[:1] and sys.argv[0].endswith('fork_server.py'):\n"
        "    import runpy\n"
        "    space = runpy.run_path(sys.argv[0])\n"
        "    space['_serve'](sys.argv[1])\n"
        "    raise SystemExit\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"started\n"
    assert len(running(str(tmp_path))) == 2
    process.kill()
    process.wait()
    assert gone(str(tmp_path))


def test_a_server_with_threads_is_refused(monkeypatch):
    monkeypatch.setattr(fork_server, "_import_all", lambda: None)
    monkeypatch.setattr(fork_server, "_serve", lambda address: pytest.fail("it serves"))
    monkeypatch.setattr(os, "listdir", lambda path: ["1", "2"])
    with pytest.raises(RuntimeError, match="2 threads after the imports"):
        fork_server.main()


TABLE = {
    "x": [0.1, np.nan, 3.0],
    "name": ["a", None, "c"],
    "n": [1, 2, 3],
    "is": [True, False, True],
}


def written(path, table, about="one"):
    made = pa.Table.from_pandas(pd.DataFrame(table)).replace_schema_metadata({"about": about})
    pq.write_table(made, path)
    return path


def test_a_digest_is_of_the_values_alone(tmp_path):
    one = written(tmp_path / "one.parquet", TABLE)
    turned = dict(reversed(TABLE.items()))
    assert digest(one) == digest(written(tmp_path / "other.parquet", turned, "other"))
    assert set(digests(tmp_path)) == {"one", "other"}


@pytest.mark.parametrize(
    "change",
    [
        {"x": [np.nextafter(0.1, 1), np.nan, 3.0]},
        {"x": [0.1, 0.0, 3.0]},
        {"name": ["a", "", "c"]},
        {"n": np.array([1, 2, 3], np.int32)},
        {"is": [True, False, False]},
        {"x": [3.0, np.nan, 0.1]},
        {"y": [1, 1, 1]},
    ],
)
def test_a_digest_sees_every_change(tmp_path, change):
    one = written(tmp_path / "one.parquet", TABLE)
    assert digest(one) != digest(written(tmp_path / "other.parquet", {**TABLE, **change}))
