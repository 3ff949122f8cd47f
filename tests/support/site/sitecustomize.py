"""Hands the work of Snakemake and of the package's commands to the server of forks."""

import os
import signal
import sys


def is_ours(first: str = "", module: str = "", *rest: str) -> bool:
    """Whether these arguments are Snakemake or a command of the package."""
    return first == "-m" and (module == "snakemake" or module == "universal_neurons.commands")


if is_ours(*sys.orig_argv[1:]):
    from universal_neurons.forks.server import fork

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    address = os.environ["UNIVERSAL_NEURONS_FORKS"]
    with fork(address, sys.orig_argv[1:], os.getcwd(), os.environ) as job:
        code = job.wait().code
    os._exit(128 - code if code < 0 else code)
