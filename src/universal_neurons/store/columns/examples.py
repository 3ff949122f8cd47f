"""Columns of the tables of contexts in which chosen neurons are active."""

from __future__ import annotations

from dataclasses import replace

from universal_neurons.store.columns.declare import LAYER, NEURON, SEED, STEP, Column, Table

BAND = Column(
    *("band", "text", ""),
    "How the context was chosen: `top`, largest activations, no two in one sequence; `0.99-0.999`, "
    "`0.9-0.99`, `0.5-0.9`, `0-0.5`, drawn between these quantiles; `random`, drawn from all.",
)
RANK = Column("rank", "int32", "", "Of the context within its band, from 0 for the most active.")
HOME = replace(STEP, meaning="Training step at which the contexts were chosen: the last one.")

EXAMPLES = Table(
    "examples",
    "Contexts of chosen neurons at the last step, each a window of tokens.",
    (HOME, SEED, LAYER, NEURON, BAND, RANK),
    (
        Column(
            *("sequence", "int64", ""),
            "Sequence of the corpus (row of `corpus/tokens.npy`) that the context is in, from 0.",
        ),
        Column("position", "int32", "", "Position of the scored token in it, from 0."),
        Column("activation", "float64", "activation", "Of the neuron at that token."),
        Column("start", "int32", "", "Position of the window's first token."),
        Column(
            *("token_ids", "list<int32>", ""),
            "Tokens of the window: ten before, the token and five after, within the sequence.",
        ),
        Column("activations", "list<float32>", "activation", "Of the neuron at these tokens."),
    ),
)

CONTEXTS = Table(
    "contexts",
    "What other models do in the same contexts: at other steps the neuron of the same seed, layer "
    "and index, at the last step its best match in every other seed.",
    (
        HOME,
        # In the order of the parts, of which every model that was run makes one.
        replace(STEP, name="other_step", meaning="Training step of the model that was run."),
        replace(SEED, name="other_seed", meaning="Its seed."),
        SEED,
        *(LAYER, NEURON, BAND, RANK),
    ),
    (
        replace(LAYER, name="other_layer", meaning="Layer of the neuron that is read."),
        replace(NEURON, name="other_neuron", meaning="Its index."),
        Column(
            *("activations", "list<float32>", "activation"),
            "Its, at the tokens of the window; NaN where a model of another tokenizer "
            "(`corpus.align`) has no token that ends there.",
        ),
    ),
)

HISTOGRAMS = Table(
    "histograms",
    "Histograms of chosen neurons' activations at the last step: of the scored tokens of "
    "`explorer.tokens`, and of those of every subset of the corpus.",
    (
        *(STEP, SEED, LAYER, NEURON),
        Column("subset", "text", "", "Name of the subset; null for all tokens.", nullable=True),
    ),
    (
        Column("low", "float64", "activation", "Lower end of the first bin."),
        Column("high", "float64", "activation", "Upper end of the last bin, which it belongs to."),
        Column("counts", "list<int64>", "tokens", "In 256 bins of one width."),
    ),
)

ACTIVATING_TOKENS = Table(
    "activating_tokens",
    "Tokens at which chosen neurons are most active on average, at the last step.",
    (STEP, SEED, LAYER, NEURON, Column("rank", "int32", "", "From 0, largest mean first.")),
    (
        Column("token_id", "int32", "", "The token, which `vocabulary` has as text."),
        Column("mean", "float64", "activation", "Mean activation where it is the current token."),
        Column("count", "int64", "tokens", "How often that is, ten times at least."),
    ),
)

VOCABULARY = Table(
    "vocabulary",
    "Tokens as text.",
    (
        Column(
            *("token_id", "int32", ""),
            "Number of the token; of several tokenizers (`corpus.align`) those of one come after "
            "those of another.",
        ),
    ),
    (
        Column(
            *("text", "text", ""),
            "What it decodes to after another token; its name in the tokenizer if that is no whole "
            "character, and `#17` where the tokenizer has none of that number.",
        ),
    ),
)
