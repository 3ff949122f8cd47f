"""What some jobs of a grid take in all: operations, bytes and time at given rates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from universal_neurons.plan.cost import FIXED, FORMULA, RULES, START, Work, times
from universal_neurons.plan.counts import counts
from universal_neurons.plan.disk import most_held
from universal_neurons.plan.grid import Grid
from universal_neurons.plan.sizes import Sizes
from universal_neurons.plan.units import in_bytes


@dataclass(frozen=True)
class Share:
    """What some jobs of a rule take.

    Attributes
    ----------
    jobs
        Their number; parts of jobs count too.
    work
        Multiplications and additions.
    stored
        Bytes that they leave on disk.
    start
        Processor seconds of each job that are no work.
    """

    jobs: float
    work: Work
    stored: float
    start: float

    @property
    def operations(self) -> float:
        """Operations, whatever their rate."""
        return sum(self.work.values())

    def seconds(self, rates: Mapping[str, float]) -> float:
        """Time at these rates (operations per second), all cores busy."""
        starts = self.jobs * self.start / (os.cpu_count() or 1)
        return starts + sum(self.work[kind] / rates[kind] for kind in self.work)


def shares(grid: Grid, jobs: Mapping[str, float]) -> dict[str, Share]:
    """What numbers of jobs take, each as much as others of its rule.

    Parameters
    ----------
    grid
        They are of.
    jobs
        Number of jobs by rule, as `counts` or a dry run has them.
    """
    whole, sizes = counts(grid), Sizes(grid)

    def share(rule: str, number: float) -> Share:
        formula = FORMULA.get(rule, rule)
        if formula not in RULES:
            # `all` is no job that takes time.
            return Share(number, {}, 0.0, START if formula in FIXED else 0.0)
        of = sum(n for other, n in whole.items() if FORMULA.get(other, other) == formula)
        found, part = RULES[formula](sizes), number / of
        return Share(number, times(found.whole, part), found.stored * part, found.start)

    return {rule: share(rule, number) for rule, number in jobs.items()}


def summary(grid: Grid) -> str:
    """One line for the start of a run; of the whole grid, whatever is done already."""
    found = shares(grid, counts(grid)).values()
    jobs, operations = (
        sum(getattr(each, name) for each in found) for name in ("jobs", "operations")
    )
    return (
        f"The whole grid takes {jobs} jobs, about {operations:.1e} operations and at most "
        f"{in_bytes(most_held(grid).bytes)} of disk at a time; `make estimate` says how long."
    )
