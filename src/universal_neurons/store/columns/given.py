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
        "The same given the token before; null also where `correlate.given` does not name it.",
    ),
    *_given(
        "position",
        "The same given the position in the sequence; null also where `correlate.given` does not "
        "name it.",
    ),
)
