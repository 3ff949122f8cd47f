"""How well the plan knows the room that a run takes on disk when it takes the most.

A run of six small models whose activations and sums are temporary; its results are looked at ten
times a second.

    python benchmarks/disk.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

# At the end: some of its files are called as ours.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests/support"))
import fork_server
import room


def peak_disk_ratio() -> float:
    """Simulated peak by the measured one."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return room.peak_disk_ratio(Path(folder))
        finally:
            fork_server.stop()


if __name__ == "__main__":
    print({"peak_disk_ratio": peak_disk_ratio()})
