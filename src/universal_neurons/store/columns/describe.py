"""Columns of the tables that describe neurons, subsets of the corpus and models."""

from __future__ import annotations

from universal_neurons.store.columns.declare import LAYER, NEURON, SEED, STEP, Column, Table

NEURONS = Table(
    "neurons",
    "Moments of every neuron's activation over the scored tokens.",
    (STEP, SEED, LAYER, NEURON),
    (
        Column("mean", "float64", "activation", "Mean."),
        Column("std", "float64", "activation", "Standard deviation (population)."),
        Column(
            *("skewness", "float64", ""),
            "Third standardised moment; null for a dead neuron.",
            nullable=True,
        ),
        Column(
            *("kurtosis", "float64", ""),
            "Fourth standardised moment, 3 for a normal distribution; null for a dead neuron.",
            nullable=True,
        ),
        Column("sparsity", "float64", "share", "Tokens with an activation above 0."),
        Column("min", "float64", "activation", "Smallest activation."),
        Column("max", "float64", "activation", "Largest activation."),
        Column("dead", "bool", "", "Whether it has one and the same activation at every token."),
        Column(
            "escapes", "int64", "tokens", "Activations beyond the range of int8 codes; none is cut."
        ),
        Column(
            *("effective_tokens", "float64", "tokens"),
            "Tokens that its correlations rest on: (Σ z²)² / Σ z⁴ of standardised activations z; 0 "
            "for a dead neuron, null where it varies too little to say.",
            nullable=True,
        ),
        Column(
            *("rounding_se", "float64", "correlation"),
            "Standard error that the rounding of its codes adds to its correlations.",
        ),
        Column(
            *("first_position_share", "float64", "share"),
            "How much of its variance is of the tokens at position 0 of their sequences; 0 for a "
            "dead neuron.",
        ),
    ),
)

SUBSETS = Table(
    "subsets",
    "Statistics of every neuron in every subset, where the corpus has any.",
    (STEP, SEED, LAYER, NEURON, Column("subset", "text", "", "Name of a subset of the corpus.")),
    (
        Column("n_tokens", "int64", "tokens", "Scored tokens of the subset."),
        Column("mean", "float64", "activation", "Mean; null without tokens.", nullable=True),
        Column(
            *("std", "float64", "activation"),
            "Standard deviation (population); null without tokens.",
            nullable=True,
        ),
        Column(
            *("sparsity", "float64", "share"),
            "Tokens with an activation above 0; null without tokens.",
            nullable=True,
        ),
    ),
)

MODELS = Table(
    "models",
    "The models of the run.",
    (SEED, STEP),
    (
        Column("source", "text", "", "Where it is from: `train`, `local` or `hub`."),
        Column("revision", "text", "", "Commit on the Hub; null for other models.", nullable=True),
        Column("sha256", "text", "", "SHA-256 of the loaded weights."),
        Column(
            *("duplicate_of", "text", ""),
            "First model with the same weights, as `seed/step`; null if there is none before it.",
            nullable=True,
        ),
        Column("n_layers", "int64", "layers", "Transformer blocks."),
        Column("d_mlp", "int64", "neurons", "Hidden width of the first layer's MLP."),
        Column(
            *("loss_kind", "text", ""),
            "What the held-out loss is of: `next_token`, at every position but the last, or "
            "`masked`, at the tokens of an encoder's text that are masked; null if not measured.",
            nullable=True,
        ),
        Column(
            *("heldout_loss", "float64", "nats per token"),
            "Cross-entropy over all that is predicted in the held-out sequences; null if not "
            "measured, as where the weights have no head.",
            nullable=True,
        ),
        Column(
            *("heldout_loss_later", "float64", "nats per token"),
            "The same without the predictions made at position 0; null if not measured.",
            nullable=True,
        ),
    ),
)
