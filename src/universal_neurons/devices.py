"""Where models run and codes are multiplied: the CPU, or a GPU of this job's own.

Jobs run side by side and know nothing of each other. So a job that asks for any GPU takes one that
no other job of this user has, and keeps it to its end: the lock of a file that is named by the
card goes with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from universal_neurons.errors import UserError
from universal_neurons.jobs import logger

if TYPE_CHECKING:
    import torch

# Seconds until a job that found no GPU free looks again.
AGAIN = 1.0

# Locked files, which the process must not close.
_held: list[IO[str]] = []


def device_of(name: str) -> torch.device:
    """The torch device for a config value.

    Parameters
    ----------
    name
        ``cpu``; ``cuda``, any GPU (see `take_card`); ``cuda:N``, that one, whoever else is on it;
        ``auto``, any GPU if there is one, else the CPU.

    Raises
    ------
    UserError
        If the named device is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"capture.device or correlate.device: {name}: no CUDA device is available; use auto or "
            "cpu"
        )
    return torch.device("cuda", _own_card()) if name == "cuda" else torch.device(name)


@cache
def _own_card() -> int:
    """The GPU of this process; all its models share it."""
    import torch

    # Numbers depend on what a process is allowed to see.
    names = [
        str(getattr(torch.cuda.get_device_properties(i), "uuid", i))
        for i in range(torch.cuda.device_count())
    ]
    return take_card(names, Path(tempfile.gettempdir()))


def take_card(names: Sequence[str], folder: Path) -> int:
    """Take the first card that no other process of this user has, and wait until there is one.

    Parameters
    ----------
    names
        Of the cards, the same for every process on the machine.
    folder
        Where the locked files are, on this machine.

    Returns
    -------
    int
        Number of the card among `names`; it is this process's until that ends.
    """
    paths = [folder / f"universal-neurons-{os.getuid()}-{name}.lock" for name in names]
    waiting = False
    while True:
        for number, path in enumerate(paths):
            file = path.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            _held.append(file)
            return number
        if not waiting:
            logger.info("waiting for a GPU: other jobs have all %d", len(paths))
            waiting = True
        time.sleep(AGAIN)
