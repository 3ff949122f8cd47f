"""Forks end as real processes do, leave nothing behind, and Snakemake measures them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import fork_server
import pandas as pd
import pytest
import tiny
from snakemake.benchmark import BenchmarkRecord

from universal_neurons.forks import scripts, server
from universal_neurons.forks.scripts import FORKS


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


def forked(folder: Path, code: str) -> tuple[int, str]:
    """Exit code of a script that is a fork, and what it printed."""
    script, said = folder / "script.py", folder / "said"
    script.write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "SAID": str(said)}
    address = fork_server.environment(dict(os.environ))[FORKS]
    with server.fork(address, [str(script)], folder, environment) as job:
        end = job.wait().code
    return end, said.read_text() if said.exists() else ""


def test_a_fork_has_its_own_folder_arguments_environment_and_threads(tmp_path):
    code = "import os, sys, torch\nwith open(os.environ['SAID'], 'w') as f:\n"
    code += "    print(os.getcwd(), sys.argv, torch.get_num_threads(), sys.path[0], file=f)\n"
    end, said = forked(tmp_path, code)
    assert end == 0
    assert said.split("\n")[0] == f"{tmp_path} ['{tmp_path}/script.py'] 2 {tmp_path}"


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("import sys; sys.exit(3)", 3),
        ("raise SystemExit('why')", 1),
        ("1 / 0", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("import os; os._exit(7)", 7),
        ("import threading; threading.Timer(0.1, print).start()", 0),
    ],
)
def test_a_fork_ends_as_the_process_would(tmp_path, code, end):
    (tmp_path / "real.py").write_text(code)
    real = subprocess.run([sys.executable, tmp_path / "real.py"], capture_output=True, check=False)
    assert forked(tmp_path, code)[0] == real.returncode == end


def test_commands_that_are_forks_print_and_end_as_they_would(tmp_path):
    missing = [sys.executable, "-m", "universal_neurons.commands", "status", "missing.yaml"]
    for command in (missing, tiny.command("--version"), tiny.command("--no-such-option")):
        real, fork = (tiny.run(tmp_path, command, real=real) for real in (True, False))
        assert real.returncode == fork.returncode
        assert real.stdout.splitlines()[-1:] == fork.stdout.splitlines()[-1:] != []


def started(where: Path) -> subprocess.Popen:
    """A run whose jobs are forks, from the moment at which a job runs."""
    tiny.make(where)
    process = subprocess.Popen(
        tiny.command("--cores", "2"), cwd=where, env=tiny.environment(), start_new_session=True
    )
    # Snakemake, a job and who waits for them.
    while not list(where.glob("results/tiny/logs/**/*.log")) or len(running(str(where))) < 3:
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.02)
    return process


def test_a_killed_process_takes_its_forks_with_it(tmp_path):
    process = started(tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert gone(str(tmp_path))


@pytest.mark.slow  # until a server of its own has imported everything
def test_ctrl_c_ends_snakemake_its_server_and_the_forks(tmp_path):
    tiny.make(tmp_path, steps=(10, 20, 30), shards=4)
    log = (tmp_path / "said").open("w+")
    process = subprocess.Popen(
        tiny.command("--cores", "2"),
        cwd=tmp_path,
        env=tiny.environment(real=True),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    # The server and two forks: no job is a process of its own, which would say where it is.
    while len(servers(tmp_path)) < 3:
        assert process.poll() is None, "the run ended before two jobs were forks"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() != 0
    assert gone(str(tmp_path))
    assert "Traceback" not in (tmp_path / "said").read_text()
    assert "done in" in tiny.finish(tmp_path, "--quiet", "rules").stdout


def servers(where: Path) -> list[int]:
    """The server of a run, and its forks."""
    found = []
    for process in running(str(where)):
        # Those that ended meanwhile are none.
        with contextlib.suppress(OSError):
            if "universal_neurons.forks.server" in Path(f"/proc/{process}/cmdline").read_text():
                found.append(process)
    return found


START = """
import os, sys, time
from universal_neurons.forks.server import Server
server = Server(dict(os.environ))
while server.starts:
    time.sleep(0.01)
print("serves" if server.serves else "failed", flush=True)
sys.stdin.read()
"""


def stub(folder: Path, imports: str) -> dict[str, str]:
    """An environment in which a server does this in place of its imports."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "if sys.orig_argv[2:3] == ['universal_neurons.forks.server']:\n"
        "    from universal_neurons.forks import server\n"
        f"    server._import_all = lambda more: {imports}\n"
        "    sys.argv = sys.orig_argv[2:]\n"
        "    server.main()\n"
        "    raise SystemExit\n"
    )
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return {**os.environ, "PYTHONPATH": path}


def test_the_server_ends_with_the_process_that_started_it(tmp_path):
    """Also where that was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=stub(tmp_path, "None"),
    )
    assert process.stdout.readline() == b"serves\n"
    assert len(running(str(tmp_path))) == 2
    process.kill()
    process.wait()
    assert gone(str(tmp_path))


@pytest.mark.slow
def test_a_server_with_threads_does_not_serve(tmp_path):
    more = "(t := __import__('threading').Timer(60, print), setattr(t, 'daemon', True), t.start())"
    result = subprocess.run(
        [sys.executable, "-c", START],
        input="",
        capture_output=True,
        text=True,
        env=stub(tmp_path, more),
        check=False,
    )
    assert result.stdout == "failed\n"
    assert "2 threads after the imports: a fork would lose them" in result.stderr


# A third of a second of one processor, and 200 MB.
WORK = """
import time
held = bytearray(200 << 20)
while time.process_time() < 0.3: pass
"""


def test_a_fork_is_measured_to_its_end_and_a_failed_one_fails_its_job(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    record = BenchmarkRecord()
    job = SimpleNamespace(
        **dict.fromkeys(("conda_env", "container_img", "env_modules")),
        bench_record=record,
        threads=1,
        resources={},
    )
    # Put back when the test ends.
    monkeypatch.setattr(scripts.PythonScript, "execute_script", None)
    for name, value in fork_server.environment(dict(os.environ)).items():
        monkeypatch.setenv(name, value)
    scripts.run_scripts_as_forks()
    script.write_text("")
    scripts.PythonScript.execute_script(job, str(script))
    least = record.max_rss
    script.write_text(WORK)
    scripts.PythonScript.execute_script(job, str(script))
    assert 0.3 <= record.cpu_time < 3
    assert record.running_time >= 0.3
    assert 195 < record.max_rss - least < 220, "MB"
    assert "NA" not in record.get_benchmarks()
    script.write_text("raise SystemExit(3)")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        scripts.PythonScript.execute_script(job, str(script))
    assert failed.value.returncode == 3


def test_benchmarks_are_of_the_forks(local):
    """Not of Snakemake, which waits for them, nor empty."""
    where, config = local
    files = sorted(where.glob(f"results/{config['run']}/benchmarks/**/*.tsv"))
    table = pd.concat([pd.read_csv(file, sep="\t") for file in files])
    assert len(table) > 20
    assert (table["max_rss"] > 100).all(), "MB: all jobs have torch"
    assert (table["cpu_time"] > 0).all()
