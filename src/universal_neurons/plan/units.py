"""Seconds and bytes in units that suit their size."""

from __future__ import annotations


def in_time(seconds: float) -> str:
    """Seconds as a person says them: ``12 s``, ``3.5 min``, ``41 h``."""
    for unit, size, most in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 72 * 3600)):
        if seconds < most:
            return _short(seconds / size, unit)
    return _short(seconds / 86400, "days")


def in_bytes(number: float) -> str:
    """Bytes as disks count them: ``0 B``, ``12 kB``, ``3.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return _short(number, unit)
        number /= 1000
    return _short(number, "TB")


def _short(value: float, unit: str) -> str:
    """Two digits where there are fewer before the point."""
    decimals = 1 if 0 < value < 9.95 and unit != "B" else 0
    return f"{value:,.{decimals}f} {unit}"
