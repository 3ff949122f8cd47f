"""Columns of the table of universal fractions."""

from __future__ import annotations

from universal_neurons.store.columns.declare import LAYER_OR_ALL, STEP, Column, Table

# What both ends of an interval are for.
INTERVAL = "for the choice of tokens, of the mean also of seeds; null without a standard error"


def _new_seed(prefix: str, universal: str) -> tuple[Column, ...]:
    """The columns of whether a new seed has a match."""
    meaning = (
        f"Probability that a neuron {universal} in the other seeds has a match in a new one: "
        "share of cases matched where every seed is left out in turn"
    )
    ends = "95 % interval over seeds, in all roles (jackknife); null with fewer than four"
    return (
        Column(
            *(f"{prefix}new_seed", "float64", "probability"),
            f"{meaning}; null for single seeds and without cases.",
            nullable=True,
        ),
        Column(*(f"{prefix}new_seed_low", "float64", "probability"), f"Lower end, {ends}.", True),
        Column(*(f"{prefix}new_seed_high", "float64", "probability"), f"Upper end, {ends}.", True),
    )


def _kind(name: str, universal: str, interval: str) -> tuple[Column, ...]:
    """The columns of another kind of universal neuron."""
    return (
        Column(
            *(name, "float64", "share"),
            f"Share of neurons {universal}, in the rows of the mean that of the seeds' shares; "
            "null where that is not known.",
            nullable=True,
        ),
        Column(
            *(f"{name}_low", "float64", "share"),
            f"Lower end of its 95 % interval, {interval}.",
            nullable=True,
        ),
        Column(
            *(f"{name}_high", "float64", "share"),
            f"Upper end of its 95 % interval, {interval}.",
            nullable=True,
        ),
        *_new_seed(f"{name}_", universal),
    )


FRACTIONS = Table(
    "fractions",
    "How many neurons are universal, per layer and overall, of every seed and over seeds.",
    (
        STEP,
        Column("seed", "seed", "", "Label of a model; empty for the mean over seeds."),
        LAYER_OR_ALL,
    ),
    (
        Column("n_neurons", "int64", "neurons", "Neurons; of all seeds in the rows of the mean."),
        Column("n_universal", "int64", "neurons", "Universal ones among them."),
        Column("fraction", "float64", "share", "`n_universal` of `n_neurons`."),
        Column(
            *("mean_fraction", "float64", "share"),
            "In the rows of the mean that of the seeds' fractions, which differs from `fraction` "
            "where widths do; else `fraction`.",
        ),
        Column(
            *("se", "float64", "share"),
            "Standard error of `mean_fraction`; null where activations were not stored, and of the "
            "mean with fewer than three seeds or of a layer that one seed has.",
            nullable=True,
        ),
        Column(
            *("low", "float64", "share"),
            f"Lower end of the 95 % interval of `mean_fraction`, {INTERVAL}.",
            nullable=True,
        ),
        Column(
            *("high", "float64", "share"),
            f"Upper end of the 95 % interval of `mean_fraction`, {INTERVAL}.",
            nullable=True,
        ),
        *_new_seed("", "universal"),
        *_kind(
            "beyond_random",
            "beyond random directions (q-value below the rate)",
            f"{INTERVAL} and where no excess would do, as the null has too few values",
        ),
        Column(
            *("expected_beyond_random", "float64", "neurons"),
            "How many neurons are expected to be better than random directions, whichever they are "
            "(by the p-values above ½: Storey); null without that null.",
            nullable=True,
        ),
        *_kind(
            "given_token",
            "universal given the token",
            "for the choice of tokens, of the mean also of seeds; of seeds alone, and null for "
            "single ones, where memory did not hold the means of all tokens; null for fewer than "
            "three",
        ),
    ),
)
