"""How much memory a piece of code takes at its peak, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

# Of the process itself: `ru_maxrss` starts from what the test's process, its parent, has.
PEAK = """
def peak():
    status = open("/proc/self/status").read()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
"""


def taken(preparation: str, code: str, *arguments: object) -> int:
    """Bytes that `code` takes at its peak beyond the peak of `preparation`; Linux only."""
    measured = f"{PEAK}{preparation}\nbefore = peak()\n{code}\nprint(peak() - before)"
    command = [sys.executable, "-c", measured, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])
