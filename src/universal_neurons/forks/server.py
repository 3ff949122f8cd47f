"""A process that has imported all that jobs import, and forks for each of them.

Half the time of a small run goes into starting Python and importing torch, once per job. The server
imports once and never computes, so that it has a single thread and a fork loses none. Whoever has
work for it sends its folder, arguments, environment and standard streams, and hears the fork's
process and then its exit code; where it is killed or closes the connection, its fork is killed. The
server ends with the process that started it, and takes its forks along.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import logging
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

# What is imported only where it is used.
LAZY = (
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "numba.np.ufunc.omppool",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "pyarrow.vendored.version",
    "scipy.optimize",
    "scipy.stats",
    "snakemake.iocontainers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.gpt2.modeling_gpt2",
)
# Libraries that would start threads as they are imported.
SINGLE = {
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
# What forks are given themselves.
OWN = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")


class Server:
    """A server, as the process that starts it sees it.

    Parameters
    ----------
    environment
        The server's, and so what libraries read as they are imported.
    more
        Modules to import besides the package's.

    Attributes
    ----------
    address
        Path of its socket, in a folder that only this user can enter.
    """

    def __init__(self, environment: Mapping[str, str], more: Sequence[str] = ()) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forks")
        self.address = str(Path(self._folder.name, "socket"))
        shared = {name: value for name, value in environment.items() if name not in OWN}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self.address, *more],
            stdin=subprocess.PIPE,
            env={**shared, **SINGLE},
        )
        atexit.register(self.stop)

    @property
    def starts(self) -> bool:
        """Whether it still imports."""
        return self._process.poll() is None and not os.path.exists(self.address)

    @property
    def serves(self) -> bool:
        """Whether it has imported everything, and lives."""
        return self._process.poll() is None and os.path.exists(self.address)

    def stop(self) -> None:
        """End it and its forks."""
        atexit.unregister(self.stop)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()


@dataclass(frozen=True)
class End:
    """How a fork ended, and what it took, as the system counted it.

    Attributes
    ----------
    code
        Its exit code; negative is the signal that ended it, as of `subprocess`.
    processor
        Seconds of processors, with those of processes that it waited for.
    memory, read, written
        Most memory, and what went from and to disks, in MB.
    """

    code: int
    processor: float
    memory: float
    read: float
    written: float

    @classmethod
    def of(cls, process: int) -> End:
        """Collect a process that has ended."""
        _, status, usage = os.wait4(process, 0)
        code = os.waitstatus_to_exitcode(status)
        blocks = (usage.ru_inblock / 2048, usage.ru_oublock / 2048)  # of 512 bytes
        return cls(code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, *blocks)


class Fork:
    """A process that a server makes, and how it ends."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def wait(self) -> End:
        """Wait until it ends."""
        said = self._connection.recv(1024)
        if not said:
            raise ConnectionError("the server of forks has ended, and the fork with it")
        return End(**json.loads(said))


@contextmanager
def fork(
    address: str, arguments: Sequence[str], folder: str | Path, environment: Mapping[str, str]
) -> Iterator[Fork]:
    """Have a server do what ``python *arguments`` would do; leaving this kills what still runs.

    Parameters
    ----------
    address
        Of the server.
    arguments
        A script with its arguments, or ``-m``, a module and its arguments.
    folder
        Where it runs.
    environment
        Its environment, all of it. torch and Numba compute on as many threads as
        ``OMP_NUM_THREADS`` says.

    Raises
    ------
    OSError
        No server is there.
    """
    request = {
        "folder": str(folder),
        "arguments": list(arguments),
        "environment": dict(environment),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        yield Fork(connection)


def _import_all(more: Sequence[str]) -> None:
    import numba
    import transformers.conversion_mapping

    import universal_neurons

    names = [
        m.name for m in pkgutil.walk_packages(universal_neurons.__path__, "universal_neurons.")
    ]
    for name in [*names, *LAZY, *more]:
        if name != __name__ and not name.endswith("__main__"):
            importlib.import_module(name)
    # The first function compiled makes numba import the rest of itself and fill its tables.
    numba.njit(lambda: 0)()
    # The first model loaded makes Transformers fill the table of what old files call weights.
    transformers.conversion_mapping.get_checkpoint_conversion_mapping("gpt2")


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Take the streams, folder, environment and threads of the process that asked."""
    # What the server's libraries would do at its end takes as long as the fork itself.
    atexit._clear()
    atexit.register(logging.shutdown)
    for own, given in enumerate(streams):
        os.dup2(given, own)
    os.closerange(3, 1024)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # Numba refuses a pool of another size than the server's, and takes a part of it below.
    os.environ.pop("NUMBA_NUM_THREADS", None)
    random.seed()
    import numba
    import torch

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    # Starting its pool, Numba has torch take as many threads.
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(threads)


def _work(request: dict[str, Any]) -> None:
    """Run its script or module."""
    first, *rest = request["arguments"]
    if first == "-m":
        sys.path[0], sys.argv = request["folder"], rest
        if not hasattr(sys.modules.get(rest[0]), "__path__"):
            sys.modules.pop(rest[0], None)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = os.path.dirname(os.path.abspath(first)), [first, *rest]
        runpy.run_path(first, run_name="__main__")


def _run(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """In the fork: do what the process that asked would have done."""
    code: Any = 0
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _become(request, streams)
        _work(request)
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
        code = 0 if code is None else code if isinstance(code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        # The job is over; what libraries do at exit is not to be interrupted, and would say so.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
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
    listener.bind(f"{address}.new")
    listener.listen(128)
    selector = selectors.DefaultSelector()
    # Every file that can be read, with the connection that its fork belongs to.
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    forks: dict[socket.socket, tuple[int, int]] = {}
    os.rename(f"{address}.new", address)

    def begin() -> None:
        connection, _ = listener.accept()
        message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if not message:
            connection.close()
            return
        process = os.fork()
        if not process:
            _run(json.loads(message), streams)
        for stream in streams:
            os.close(stream)
        forks[connection] = process, os.pidfd_open(process)
        selector.register(forks[connection][1], selectors.EVENT_READ, connection)
        selector.register(connection, selectors.EVENT_READ)

    def end(connection: socket.socket) -> None:
        """Collect a fork that ended and tell whoever waits for it."""
        process, pidfd = forks.pop(connection)
        ended = json.dumps(asdict(End.of(process)))
        with contextlib.suppress(OSError):
            connection.send(ended.encode())
        selector.unregister(pidfd)
        selector.unregister(connection)
        os.close(pidfd)
        connection.close()

    def kill(connection: socket.socket) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(forks[connection][0], signal.SIGKILL)

    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                begin()
            elif key.fileobj == sys.stdin.fileno():
                for connection in forks:
                    kill(connection)
                return
            elif key.data in forks:
                end(key.data)
            elif key.fileobj in forks:
                # Whoever waited was killed.
                kill(key.fileobj)
                end(key.fileobj)


def main() -> None:
    # Ctrl-C is for the forks, and for whoever started this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import_all(sys.argv[2:])
    tasks = os.listdir("/proc/self/task")
    if len(tasks) > 1:
        raise RuntimeError(f"{len(tasks)} threads after the imports: a fork would lose them")
    gc.collect()
    gc.freeze()
    _serve(sys.argv[1])


if __name__ == "__main__":
    main()
