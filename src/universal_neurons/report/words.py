"""How the report puts numbers into words, alike in sentences and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from universal_neurons.score.criterion import Criterion
from universal_neurons.score.nulls import LEADING, leading

# Of all directions these are the ones meant: uniform where inputs are whitened.
DIRECTIONS = "random (whitened) directions"

# What each null of the table `nulls` stands for.
NULLS = {
    LEADING: f"{DIRECTIONS} in the other seeds' real MLP inputs",
    "rotated": "random rotations of the other seeds' neurons",
    "untrained": "untrained models",
    "permuted": "noise (seeds run over other sequences)",
}

# Of what a run leaves out on request.
NOT_ABLATED = "Nothing was ablated (ablation.kinds is empty, or no model has a head)"
NOT_TRACED = "Neurons were not traced from step to step (persistence.trace_tokens is 0)"


@dataclass(frozen=True)
class ShortTable:
    """A table of the report: rows of column to finished text."""

    title: str
    note: str
    rows: list[dict[str, str]]
    text_columns: frozenset[str] = field(default=frozenset())

    @property
    def columns(self) -> list[str]:
        """Column names in order."""
        return list(self.rows[0]) if self.rows else []


def criterion_met(criterion: Criterion, *, many: bool = False) -> str:
    """The predicate of a universal neuron by the run's criterion, or of many of them."""
    if criterion.kind == "excess":
        threshold = criterion.excess_threshold
        return f"{'have' if many else 'has'} an excess correlation above {threshold:g}"
    rate = criterion.false_discovery_rate
    return f"{'match' if many else 'matches'} better than the leading null (q < {rate:g})"


def beaten(nulls: pd.DataFrame) -> str:
    """What the q-values of the last step are against, in words.

    Parameters
    ----------
    nulls
        The table `nulls`.
    """
    compared = set(nulls.loc[nulls["step"] == nulls["step"].max(), "null"])
    # A step without any null has no q-values either.
    return listed([NULLS[name] for name in NULLS if name in leading(compared)] or ["every null"])


def percent(share: float) -> str:
    """A share in percent that is never rounded to nothing or to everything."""
    if pd.isna(share):
        return "–"
    hundredths = 100 * share
    if hundredths in (0, 100):
        return f"{hundredths:.0f}\u00a0%"
    if hundredths < 0.01:
        return "under 0.01\u00a0%"
    if hundredths >= 99.95:
        return "over 99.9\u00a0%"
    return f"{hundredths:.{2 if hundredths < 1 else 1}f}\u00a0%"


def share_range(low: float, high: float) -> str:
    """Two shares in percent, or one where they are equal."""
    return percent(low) if low == high else f"{percent(low)} to {percent(high)}"


def pooled_over(n_seeds: int, lowest: float, highest: float) -> str:
    """How many seeds a share is pooled over, and the range of theirs."""
    if n_seeds == 1:
        return "in the only seed that has any"
    return f"pooled over {n_seeds} seeds; {share_range(lowest, highest)} in single seeds"


def out_of(part: float, whole: float) -> str:
    """A count and of how many."""
    return f"{int(part):,} of {int(whole):,}"


def number(value: float, decimals: int) -> str:
    """With a true minus sign, and none before zero; a dash where there is no value."""
    if pd.isna(value):
        return "–"
    text = f"{value:,.{decimals}f}"
    negative = text.startswith("-") and float(text.replace(",", "")) != 0
    return ("−" if negative else "") + text.removeprefix("-")


def decimals(error: float) -> int:
    """Decimals that show a number to two significant digits of its error."""
    if math.isnan(error) or error <= 0:
        return 4
    return min(8, max(2, 1 - math.floor(math.log10(error))))


def moves_loss(change: float, digits: int, again: bool = False) -> str:
    """Which way the held-out loss (or, named before, `again`: it) moves, and how far."""
    what = "it" if again else "the held-out loss"
    verb = "raises" if change > 0 else "lowers"
    amount = f"{abs(change):.{digits}f}"
    return f"{verb} {what} by {amount}{'' if again else ' nats per token'}"


def average(count: float) -> str:
    """A number of neurons, said to be an average where it is not whole."""
    return f"{count:,.0f}" if count == int(count) else f"{count:,.1f} on average"


def times(ratio: float) -> str:
    """A ratio, with a decimal where it is small."""
    return f"{ratio:,.1f} times" if ratio < 10 else f"{ratio:,.0f} times"


def p_number(p: float) -> str:
    """A p-value as digits, small ones as a power of ten."""
    if p >= 0.001:
        return f"{p:.3f}"
    if p < 1e-15:
        return "< 10⁻¹⁵"
    mantissa, exponent = f"{p:.0e}".split("e")
    superscript = str(abs(int(exponent))).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}×10⁻{superscript}"


def p_value(p: float) -> str:
    """A p-value with the sign of its comparison, to follow the letter p."""
    text = p_number(p)
    return text if text.startswith("<") else f"= {text}"


def plural(n: int, one: str, many: str) -> str:
    """A count and the noun that goes with it."""
    return f"{n:,} {one if n == 1 else many}"


def count_seeds(n: int) -> str:
    """A number of seeds."""
    return plural(n, "seed", "seeds")


def listed(parts: Sequence[str]) -> str:
    """Parts with commas and a last *and*."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def extremes(by_layer: pd.Series, what: str) -> str:
    """Which layers, the index, have the largest and which the smallest of some shares."""
    largest, smallest = by_layer.max(), by_layer.min()
    if largest == smallest:
        return f"all have the same {what} ({percent(largest)})"
    most, least = (list(by_layer.index[by_layer == share]) for share in (largest, smallest))
    verb = "has" if len(most) == 1 else "have"
    return (
        f"{named_layers(most)} {verb} the largest {what} ({percent(largest)}), "
        f"{named_layers(least)} the smallest ({percent(smallest)})"
    )


def named_neuron(layer: int, neuron: int) -> str:
    """A neuron of a model by layer and index."""
    return f"L{int(layer)}N{int(neuron)}"


def named_layers(layers: Sequence[int]) -> str:
    """Layers by number."""
    return ("layer " if len(layers) == 1 else "layers ") + listed([str(x) for x in layers])
