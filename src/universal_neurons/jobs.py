"""What every job of the workflow does besides its work: log, report progress, fail readably."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from universal_neurons.errors import UserError

logger = logging.getLogger(__name__)

# Set where somebody watches the whole run (`snakemake_logger_plugin_stages`): the terminal gets
# warnings only, and the one who watches tells how the log of a failed job ends.
QUIET = "UNIVERSAL_NEURONS_QUIET"

# How the log of a job ends that somebody stopped, and of one that is done.
STOPPED, DONE = "stopped", "done in"

# glibc's parameters for `mallopt`, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
T = TypeVar("T")


def keep_memory() -> None:
    """Let the allocator keep freed memory instead of handing it back to the system each time.

    Batches and chunks are tens of MB that come and go, and glibc maps each afresh. Where the system
    clears pages slowly, as in a virtual machine, that takes longer than compressing what is in
    them. Other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(M_ARENA_MAX, 1)


@contextmanager
def job(log: str | Path | None) -> Iterator[None]:
    """Send the package's log messages to the terminal and the file `log` while a job runs.

    A `UserError`, a full disk or a folder that can't be written ends the process with a message and
    exit code 1, without a traceback; any other exception is logged with its traceback and raised
    again. With `QUIET` in the environment the terminal gets warnings only, and no traceback.
    """
    quiet = log is not None and bool(os.environ.get(QUIET))
    # A full disk takes no log either; the terminal still gets the message.
    logging.raiseExceptions = False
    terminal = _Warnings() if quiet else logging.StreamHandler(sys.stderr)
    _log_to(terminal)
    for library in ("httpx", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    keep_memory()
    start = time.monotonic()
    try:
        if log is not None:
            Path(log).parent.mkdir(parents=True, exist_ok=True)
            _log_to(terminal, logging.FileHandler(log, mode="w"))
        yield
    except UserError as error:
        logger.error("error: %s", error)
        sys.exit(1)
    except KeyboardInterrupt:
        logger.info(STOPPED)
        if quiet:
            sys.exit(130)
        raise
    except Exception as error:
        if why := _disk_trouble(error, Path(log or ".").parent):
            logger.error("error: %s", why)
            if quiet:  # the log may be on that disk
                print(f"error: {why}", file=sys.stderr)
            sys.exit(1)
        logger.exception("unexpected error")
        if quiet:
            sys.exit(1)
        raise
    used = resource.getrusage(resource.RUSAGE_SELF)
    logger.info(
        "%s %.1f s, %.1f s of the processor, at most %.0f MB",
        *(DONE, time.monotonic() - start),
        *(used.ru_utime + used.ru_stime, used.ru_maxrss / 1000),
    )


def _log_to(*handlers: logging.Handler) -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
        force=True,
    )


class _Warnings(logging.StreamHandler):
    """Warnings for the terminal, each in place of the line of progress that is there."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.addFilter(lambda record: record.levelno == logging.WARNING)

    def format(self, record: logging.LogRecord) -> str:
        clear = "\r\x1b[K" if self.stream.isatty() else ""
        return f"{clear}warning: {record.getMessage()}"


def _disk_trouble(error: BaseException | None, where: Path) -> str | None:
    """What is wrong with the disk, if that is what an exception, or one behind it, is about."""
    while error is not None:
        number = getattr(error, "errno", None)
        # Libraries that are not written in Python give the words only.
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return f"{_full(where)}; make room and run the same command again: finished jobs stay"
        if number == errno.EROFS or isinstance(error, PermissionError):
            return f"can't write: {error}; run the same command again when it can be written"
        error = error.__cause__ or error.__context__
    return None


def _full(where: Path) -> str:
    """What a disk has no more of, at a place that may not be there."""
    where = where.absolute()
    while not where.exists():
        where = where.parent
    disk = os.statvfs(where)
    # Some file systems have no limit, and say 0 of 0.
    if disk.f_files and not disk.f_favail:
        return f"the disk holds no more files (all {disk.f_files:,} inodes at {where} are used)"
    free = shutil.disk_usage(where).free
    return f"the disk is full or the quota used up ({free / 1e6:,.0f} MB free at {where})"


def progress(
    items: Iterable[T], what: str, *, total: int | None = None, each: int = 1, every: float = 10.0
) -> Iterator[T]:
    """Yield `items`, logging how many are done, the rate and the time left.

    Parameters
    ----------
    items
        What to iterate over.
    what
        Plural noun for the log line, for example ``"tokens"``.
    total
        Number of items; taken from ``len(items)`` where it has one.
    each
        How many of them one item stands for.
    every
        Seconds between log lines.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every:
            rate = done / (now - start)
            of = f" of {total * each:,}" if total else ""
            left = f", {(total - done) / rate:,.0f} s left" if total else ""
            speed = f"{rate * each:,.3g}" if rate * each < 1000 else f"{rate * each:,.0f}"
            logger.info("%s%s %s, %s per second%s", f"{done * each:,}", of, what, speed, left)
            last = now
