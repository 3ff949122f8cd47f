"""What the paper's grid takes, from what a rehearsal of two seeds and one step took.

In processor hours, which all cores together have in an hour. Of each rule the processor seconds of
its jobs, as their logs say them, less what a job takes before it is at work, times the ratio of
its operations in both grids (`plan.cost`): some grow with the tokens, some with samples of their
own, some with neither. Where much of a job's time grows with no tokens (writing sums), a run on
more tokens tells both apart: what grows is the slope between the two.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from universal_neurons.jobs import DONE
from universal_neurons.plan.cost import FORMULA, RULES, cost, times
from universal_neurons.plan.counts import counts
from universal_neurons.plan.grid import Grid
from universal_neurons.plan.sizes import Sizes

# Where logs have another name than their rule.
RULE_OF = {"sums": "correlate", "matches": "match", "rotated": "rotated_std"}

# Operations per second of a thread of this machine, of which ratios count only.
RATES = {"int8": 890e9, "float32": 110e9, "model": 66e9, "differences": 245e9}

# Rules that grow with the tokens most of all.
GROWING = ("capture", "correlate")

EVIDENCE = {
    "standard errors (influence)": ["influence"],
    "nulls": ["permuted", "untrained", "random_directions"],
    "conditioning": ["given", "match given the token"],
    "roles, families, examples, explorer": [
        *("describe", "vocabulary", "examples", "contexts", "explorer"),
        *("concatenate_described", "concatenate_examples", "concatenate_contexts"),
    ],
}


@dataclass(frozen=True)
class Took:
    """What the jobs of a rule took: their number, processor seconds and most memory (MB)."""

    jobs: int
    seconds: float
    memory_mb: float


def took(results: Path) -> dict[str, Took]:
    """By rule, from the logs of a run."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    line = re.compile(rf"{DONE} .* s, ([\d.]+) s of the processor, at most ([\d.]+) MB$")
    for path in sorted((results / "logs").rglob("*.log")):
        last = path.read_text().splitlines()[-1:] or [""]
        name = path.relative_to(results / "logs").parts[0].removesuffix(".log")
        if numbers := line.search(last[0]):
            found[RULE_OF.get(name, name)].append((float(numbers[1]), float(numbers[2])))
    return {
        rule: Took(len(jobs), sum(s for s, _ in jobs), max(mb for _, mb in jobs))
        for rule, jobs in found.items()
    }


@dataclass(frozen=True)
class Study:
    """A grid and what its rules took; and how many identities of tokens occur in it."""

    grid: Grid
    took: Mapping[str, Took]
    identities: int


def projected(small: Study, more: Study, large: Grid) -> Iterator[tuple[str, Took | None, float]]:
    """Rule, what it took and the seconds that it is going to take in another grid."""
    for rule in dict.fromkeys(FORMULA.get(rule, rule) for rule in counts(large)):
        measured = small.took.get(rule)
        if rule in GROWING:
            yield rule, measured, _from_two(rule, small, more, large)
        elif rule in RULES and cost(large, rule).whole:
            yield from _by_operations(rule, small, large)
        elif measured:
            yield rule, measured, measured.seconds * _growth(rule, small.grid, large)


def _from_two(rule: str, small: Study, more: Study, large: Grid) -> float:
    """By the line through both runs, of a unit: a pair of models, or a model; by the plan if not
    run on more tokens.
    """
    if rule not in more.took:
        return _seconds(cost(large, rule).whole)
    (few, seconds), (many, longer) = (
        (Sizes(study.grid).scored, study.took[rule].seconds / _units(rule, study.grid))
        for study in (small, more)
    )
    slope = (longer - seconds) / (many - few)
    fixed = max(0.0, seconds - slope * few)
    deeper = _of_a_token(rule, large) / _of_a_token(rule, small.grid)
    return deeper * _units(rule, large) * (fixed + slope * Sizes(large).scored)


def _of_a_token(rule: str, grid: Grid) -> float:
    """Work of a unit and token."""
    return _seconds(cost(grid, rule).whole) / _units(rule, grid) / Sizes(grid).scored


def _units(rule: str, grid: Grid) -> int:
    return Sizes(grid).models if rule == "capture" else Sizes(grid).pairs


def _by_operations(
    rule: str, small: Study, large: Grid
) -> Iterator[tuple[str, Took | None, float]]:
    """By operations; those of `match` given the token by themselves; by the plan if not run."""
    measured = small.took.get(rule)
    here = small.grid
    if rule == "match":
        # The plan takes as many identities as there are tokens.
        here = Grid(here.config, here.shapes, small.identities)
    of_small, of_large = (_seconds(cost(grid, rule).whole) for grid in (here, large))
    starts = counts(large)[rule] * cost(large, rule).start
    speed = 1.0
    if measured:
        at_work = measured.seconds - measured.jobs * cost(small.grid, rule).start
        speed = max(0.0, at_work) / of_small
    given = 0.0
    if rule == "match":
        given = _seconds(_given_the_token(large))
        yield "match given the token", None, speed * given
    yield rule, measured, starts + speed * (of_large - given)


def _seconds(work: Mapping[str, float]) -> float:
    return sum(operations / RATES[kind] for kind, operations in work.items())


def _given_the_token(grid: Grid) -> Mapping[str, float]:
    """Operations of all `match` jobs that are of correlations given the token."""
    sizes = Sizes(grid)
    return times(sizes.given_layer, sizes.pairs * sizes.shape.n_layers)


def _growth(rule: str, small: Grid, large: Grid) -> float:
    """Of rules that the plan has no formula of: by tokens, or by the neurons that they read of."""
    of = {
        "corpus": lambda s: s.scored,
        "score": lambda s: s.pairs * s.shape.neurons,
        "vocabulary": lambda s: 1,
    }
    size = of.get(rule, lambda s: s.models * s.shape.neurons)
    return size(Sizes(large)) / size(Sizes(small))


def listed(measured: Mapping[str, Took]) -> str:
    """What rules took, longest first."""
    lines = ["| rule | jobs | processor seconds | most memory, MB |", "|---|---|---|---|"]
    for rule, own in sorted(measured.items(), key=lambda item: -item[1].seconds):
        lines.append(f"| {rule} | {own.jobs} | {own.seconds:.0f} | {own.memory_mb:.0f} |")
    return "\n".join(lines)


def table(small: Study, more: Study, large: Grid) -> str:
    """All rules, longest first, and what evidence takes."""
    rows = sorted(projected(small, more, large), key=lambda row: -row[2])
    hours = {rule: seconds / 3600 for rule, _, seconds in rows}
    whole = sum(hours.values())
    lines = [
        "| rule | jobs | processor seconds | most memory, MB | the paper's grid, hours | share |",
        "|---|---|---|---|---|---|",
    ]
    for rule, own, _ in rows:
        here = f"{own.jobs} | {own.seconds:.0f} | {own.memory_mb:.0f}" if own else " | not run | "
        lines.append(f"| {rule} | {here} | {hours[rule]:.1f} | {hours[rule] / whole:.1%} |")
    lines += ["", "| evidence | hours | share of a run |", "|---|---|---|"]
    parts = {name: sum(hours.get(r, 0) for r in rules) for name, rules in EVIDENCE.items()}
    for name, part in {**parts, "all of it": sum(parts.values()), "a run": whole}.items():
        lines.append(f"| {name} | {part:.1f} | {part / whole:.1%} |")
    of_pairs = sum(hours.get(rule, 0) for rule in ("correlate", "match"))
    lines += [
        "",
        f"Random directions {hours['random_directions'] / whole:.1%} of a run; given the token "
        f"{parts['conditioning'] / of_pairs:.1%} of what pairs take (`correlate`, `match`).",
    ]
    return "\n".join(lines)
