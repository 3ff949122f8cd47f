"""Universal neurons: which MLP neurons every language model grows, whatever its random seed."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from universal_neurons.api.arrays import correlate_arrays as correlate_arrays
    from universal_neurons.api.run import open_run as open_run

# Numba, starting a thread per processor, would have torch take as many, in each of many jobs.
if "OMP_NUM_THREADS" in os.environ:
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]

__version__ = version("universal-neurons")

__all__ = ["__version__", "correlate_arrays", "open_run"]


def __getattr__(name: str) -> Any:
    # The workflow's many small jobs import the package, and need neither pandas nor these.
    if name == "open_run":
        from universal_neurons.api.run import open_run

        return open_run
    if name == "correlate_arrays":
        from universal_neurons.api.arrays import correlate_arrays

        return correlate_arrays
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
