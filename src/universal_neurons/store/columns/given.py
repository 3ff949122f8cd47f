"""Columns of what classes of tokens explain, and of the excess past them."""

from __future__ import annotations

from universal_neurons.store.columns.declare import Column

UNSTORED = (
    "null where activations were not stored and memory (`correlate.memory_gb`) did not hold the "
    "sums by token"
)


def _given(kind: str, meaning: str) -> tuple[Column, Column]:
    """The excess given a class of tokens, and whether it is above the threshold."""
    above = "Whether that is above the threshold; null where it is."
    return (
        Column(f"excess_given_{kind}", "float64", "correlation", meaning, nullable=True),
        Column(f"universal_given_{kind}", "bool", "", above, nullable=True),
    )


def _matched(kind: str, meaning: str, where: str) -> tuple[Column, ...]:
    """The best match given a class of tokens; `where` it is not known."""
    name = f"given_{kind}"
    return (
        Column(f"{name}_corr", "float64", "correlation", f"{meaning} {where}.", nullable=True),
        Column(
            *(f"{name}_layer", "int32", ""),
            "Layer of that neuron; −1 without one, and where the correlation is not known.",
        ),
        Column(f"{name}_neuron", "int32", "", "Index of that neuron; −1 likewise."),
        Column(
            *(f"{name}_baseline", "float64", "correlation"),
            "The same with the rotated residuals of the other seed, mean over two rotations; an "
            f"estimate where `baseline_by` is `sample`; null where `{name}_corr` is, and where "
            "too few audited neurons give an estimate.",
            nullable=True,
        ),
    )


UNASKED = "null also where `correlate.given` does not name it"

# Best matches of a pair given classes of tokens.
MATCHES_GIVEN = (
    *_matched(
        "token",
        "Largest correlation given the token: within tokens of one identity, whose means are "
        "taken out of both models; 0 where the token explains all of the neuron. By "
        "certificate (`best_by`) among the refined pairs only;",
        "null where `token_r2` is",
    ),
    *_matched("previous_token", "The same given the token before;", UNASKED),
    *_matched("position", "The same given the position in the sequence;", UNASKED),
)

# What classes of tokens explain, and the excess past them.
GIVEN = (
    Column(
        *("token_r2", "float64", "share"),
        "Share of its variance that the identity of the current token explains, in documents that "
        f"it was not learned from (two halves, each tried on the other); {UNSTORED}.",
        nullable=True,
    ),
    Column(
        *("previous_token_r2", "float64", "share"),
        f"The same of the token before; {UNSTORED}.",
        nullable=True,
    ),
    Column(
        *("position_r2", "float64", "share"),
        f"The same of the position in the sequence; {UNSTORED}.",
        nullable=True,
    ),
    Column(
        *("token_coverage", "float64", "share"),
        f"Share of the scored tokens that `token_r2` is of: the token occurs in both halves; "
        f"{UNSTORED}.",
        nullable=True,
    ),
    *_given(
        "token",
        "Excess correlation given the token: of what is left of both models when the mean of every "
        "token's identity is taken out, over its own rotated baseline, mean over the other seeds; "
        "0 where the token explains all; null where `token_r2` is or a baseline is not known.",
    ),
    *_given(
        "previous_token",
        f"The same given the token before; {UNASKED}.",
    ),
    *_given(
        "position",
        f"The same given the position in the sequence; {UNASKED}.",
    ),
)
