"""A process that has imported all that jobs import, and forks for each of them.

Most of a tiny run's time goes into starting Python and importing torch. A process whose environment
comes from `environment` hands its work to this server as soon as it starts
(site/sitecustomize.py), where it is Snakemake, one of its script jobs or a command of the package:
it sends its folder, arguments, environment and standard streams, and ends as the fork ends. Killed,
it takes the fork with it.

The server imports and never computes, so that no thread is lost in a fork. It ends with the process
that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

ADDRESS = "UNIVERSAL_NEURONS_FORK_SERVER"
SITE = Path(__file__).parent / "site"
# What is imported only where it is used: by the tests' models, Transformers and Snakemake.
LAZY = [
    "datasets",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "pyarrow.parquet",
    "scipy.optimize",
    "scipy.stats",
    "snakemake.cli",
    "snakemake.dag",
    "snakemake.executors.local",
    "snakemake.report",
    "snakemake.script",
    "snakemake.workflow",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
]
_servers: dict[tuple[tuple[str, str], ...], Server] = {}


class Server:
    """The other end: a server started for the settings in `environment`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fork")
        self.address = str(Path(self._folder.name, "socket"))
        # Neither libraries of arrays nor Arrow's allocator may start threads.
        single = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
        single["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, **single},
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until it serves."""
        if self._process.stdout and not self._process.stdout.closed:
            said = self._process.stdout.read()
            self._process.stdout.close()
            if said != b"ready":
                raise RuntimeError("the fork server did not start")

    def stop(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._folder.cleanup()


def environment(given: dict[str, str]) -> dict[str, str]:
    """`given`, with the address of a server, which is started if need be.

    Hugging Face's libraries read their settings when they are imported: other settings, another
    server.
    """
    settings = tuple(sorted(item for item in given.items() if item[0].startswith("HF_")))
    if settings not in _servers:
        _servers[settings] = Server(given)
    server = _servers[settings]
    server.wait()
    path = os.pathsep.join(filter(None, [str(SITE), given.get("PYTHONPATH")]))
    return {**given, ADDRESS: server.address, "PYTHONPATH": path}


@atexit.register
def stop() -> None:
    """End all servers that this process started."""
    while _servers:
        _servers.popitem()[1].stop()


def _import_all() -> None:
    import numba

    # Asking numba starts its threads.
    asked, numba.get_num_threads = numba.get_num_threads, lambda: numba.config.NUMBA_NUM_THREADS
    import universal_neurons

    names = [
        m.name for m in pkgutil.walk_packages(universal_neurons.__path__, "universal_neurons.")
    ]
    for name in [*names, *LAZY]:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    numba.get_num_threads = asked


def _run(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """In the fork: do what the process that asked would have done."""
    os.setpgid(0, 0)
    for own, given in enumerate(streams):
        os.dup2(given, own)
    os.closerange(3, 1024)
    os.chdir(request["folder"])
    os.environ.clear()
    # numba reads its settings again whenever it compiles, and refuses another number of threads.
    os.environ.update({**request["environment"], "NUMBA_NUM_THREADS": "1"})
    random.seed()
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    code: Any = 0
    first, *rest = request["arguments"]
    try:
        if first == "-m":
            sys.path[0], sys.argv = request["folder"], rest
            if not hasattr(sys.modules.get(rest[0]), "__path__"):
                sys.modules.pop(rest[0], None)
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0], sys.argv = os.path.dirname(os.path.abspath(first)), [first, *rest]
            runpy.run_path(first, run_name="__main__")
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
        code = 0 if code is None else code if isinstance(code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 255)


def _serve(address: str) -> None:
    """Fork for every request until standard input ends."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(128)
    selector = selectors.DefaultSelector()
    # Every file that can be read, with the other files and the process of its request.
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    forks: dict[socket.socket, tuple[int, int]] = {}
    os.write(1, b"ready")
    os.dup2(2, 1)

    def end(connection: socket.socket) -> None:
        """Collect a fork that ended and tell whoever waits for it."""
        process, pidfd = forks.pop(connection)
        _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(OSError):
            connection.send(str(128 - code if code < 0 else code).encode())
        selector.unregister(pidfd)
        selector.unregister(connection)
        os.close(pidfd)
        connection.close()

    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
                if not message:
                    connection.close()
                    continue
                process = os.fork()
                if not process:
                    _run(json.loads(message), streams)
                for stream in streams:
                    os.close(stream)
                pidfd = os.pidfd_open(process)
                forks[connection] = process, pidfd
                selector.register(pidfd, selectors.EVENT_READ, connection)
                selector.register(connection, selectors.EVENT_READ)
            elif key.fileobj == sys.stdin.fileno():
                for process, _ in forks.values():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process, signal.SIGKILL)
                return
            elif key.data in forks:
                end(key.data)
            elif key.fileobj in forks:
                # Whoever waited was killed.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(forks[key.fileobj][0], signal.SIGKILL)
                end(key.fileobj)


def main() -> None:
    import gc

    begun = time.monotonic()
    _import_all()
    tasks = os.listdir("/proc/self/task")
    if len(tasks) > 1:
        raise RuntimeError(f"{len(tasks)} threads after the imports: a fork would lose them")
    gc.collect()
    gc.freeze()
    if os.environ.get("FORK_SERVER_DEBUG"):
        print(f"imports: {time.monotonic() - begun:.1f} s", file=sys.stderr)
    _serve(sys.argv[1])


if __name__ == "__main__":
    main()
