"""Tests' many processes as forks of a server (`universal_neurons.forks`), Snakemake's own too.

A process whose environment comes from `environment` hands its work to a server as soon as it
starts (site/sitecustomize.py), where it is Snakemake or a command of the package; Snakemake's jobs
are forks of the same server. Killed, it takes its fork with it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from universal_neurons.forks.scripts import FORKS
from universal_neurons.forks.server import Server

SITE = Path(__file__).parent / "site"
# What is imported by Snakemake's main process alone.
MORE = ("snakemake.cli", "snakemake.dag", "snakemake.executors.local", "snakemake.report")
_servers: dict[tuple[tuple[str, str], ...], Server] = {}


def environment(given: dict[str, str]) -> dict[str, str]:
    """`given`, with the address of a server, which is started if need be.

    Hugging Face's libraries read their settings when they are imported: other settings, another
    server.
    """
    settings = tuple(sorted(item for item in given.items() if item[0].startswith("HF_")))
    if settings not in _servers:
        _servers[settings] = Server({**given, "NUMBA_NUM_THREADS": "1"}, MORE)
    server = _servers[settings]
    while server.starts:
        time.sleep(0.01)
    if not server.serves:
        raise RuntimeError("the server of forks did not start")
    path = os.pathsep.join(filter(None, [str(SITE), given.get("PYTHONPATH")]))
    return {**given, FORKS: server.address, "PYTHONPATH": path}


def stop() -> None:
    """End all servers that this process started."""
    while _servers:
        _servers.popitem()[1].stop()
