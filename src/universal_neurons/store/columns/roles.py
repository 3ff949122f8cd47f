"""Columns of what neurons are for, by their weights, and of what makes them fire."""

from __future__ import annotations

from universal_neurons.store.columns.declare import LAYER, NEURON, SEED, STEP, Column, Table


def _chance(name: str, what: str, *, nullable: bool = False) -> Column:
    """Of a statistic, whether random directions have it."""
    meaning = (
        f"Chance that a random direction has {what}, as a false discovery rate over the model's "
        "neurons (Benjamini–Hochberg)"
    )
    end = "; null where that is." if nullable else "."
    return Column(name, "float64", "", meaning + end, nullable)


ROLES = Table(
    "roles",
    "What every neuron is for, by its weights alone: layer norms folded in, weights centred "
    "(docs/method.md).",
    (STEP, SEED, LAYER, NEURON),
    (
        Column(
            *("w_in_norm", "float64", ""),
            "Length of the input weights; of a gated MLP those of up.",
        ),
        Column("w_out_norm", "float64", "", "Length of the output weights."),
        Column(
            *("w_gate_norm", "float64", ""),
            "Length of the gate's weights; null in an MLP without.",
            nullable=True,
        ),
        Column("input_bias", "float64", "", "What is added before the nonlinearity."),
        Column("in_out_cos", "float64", "", "Cosine of input and output weights."),
        _chance("in_out_q", "a cosine as far from 0"),
        Column(
            *("gate_out_cos", "float64", ""),
            "Cosine of gate and output weights; null in an MLP without gate.",
            nullable=True,
        ),
        Column(
            *("gate_in_cos", "float64", ""),
            "Cosine of gate and input weights; null likewise.",
            nullable=True,
        ),
        Column(
            *("gate_category", "text", ""),
            "By these three cosines: `enrichment`, `depletion`, either also `conditional`, "
            "`proportional change` or `orthogonal output`, any also `atypical` (2505.17936); null "
            "likewise.",
            nullable=True,
        ),
        Column(
            "l2_penalty", "float64", "", "Sum of the squares of input, output and gate weights."
        ),
        Column(
            *("vocab_mean", "float64", "cosine"),
            "Mean over the tokens of the cosine of output weights and unembedding; null where the "
            "weights have no head.",
            nullable=True,
        ),
        Column(
            *("vocab_var", "float64", ""),
            "Variance of these cosines (LogitVar of 2406.16254); null without a head.",
            nullable=True,
        ),
        Column(
            *("vocab_skew", "float64", ""),
            "Their skewness; null for a neuron that changes no logit.",
            nullable=True,
        ),
        Column(
            *("vocab_kurt", "float64", ""),
            "Their kurtosis, 3 for a normal distribution; null likewise.",
            nullable=True,
        ),
        Column(
            *("logit_var", "float64", ""),
            "Variance over the tokens of what a unit of activation adds to the logits; null "
            "without a head.",
            nullable=True,
        ),
        Column(
            *("frequency_cos", "float64", ""),
            "Cosine of what it adds to the logits and the logarithm of the tokens' frequencies, "
            "both less their means; null likewise.",
            nullable=True,
        ),
        Column(
            *("null_space", "float64", "share"),
            "How much of the output weights' square is where the unembedding reads least; null "
            "without a head.",
            nullable=True,
        ),
        Column(
            *("attention_score", "float64", ""),
            "What a unit of its output direction adds to a later head's attention to the first "
            "position, before the softmax, of the head with the most; null without later heads, "
            "where attention turns queries by their position, and of encoders.",
            nullable=True,
        ),
        Column(
            *("attention_cos", "float64", ""),
            "Cosine of output weights and what that head's attention reads; null likewise.",
            nullable=True,
        ),
        Column("attention_layer", "int32", "", "Layer of that head; −1 without."),
        Column("attention_head", "int32", "", "Index of that head; −1 without."),
        _chance("vocab_kurt_q", "as large a `vocab_kurt`", nullable=True),
        _chance("vocab_var_q", "as large a `vocab_var`", nullable=True),
        _chance("vocab_flat_q", "as small a `vocab_var`", nullable=True),
        _chance(
            "null_space_q", "as large a share where the unembedding reads least", nullable=True
        ),
        _chance("frequency_q", "a `frequency_cos` as far from 0", nullable=True),
        _chance("attention_q", "an `attention_score` as far from 0", nullable=True),
        Column(
            *("promoted_ids", "list<int32>", ""),
            "Tokens whose logits it raises most, ten at most; none without a head.",
        ),
        Column(
            *("promoted_cos", "list<float32>", "cosine"),
            "Their cosines of output weights and unembedding.",
        ),
        Column("suppressed_ids", "list<int32>", "", "Tokens whose logits it lowers most."),
        Column("suppressed_cos", "list<float32>", "cosine", "Their cosines."),
        Column(
            *("role", "text", ""),
            "The first that it has of `entropy`, `prediction`, `suppression`, `token frequency`, "
            "`attention` and `partition`, the widest (config `roles`); null without any.",
            nullable=True,
        ),
    ),
)

FAMILIES = Table(
    "families",
    "What makes every neuron fire: the best explanation of its activations, on the first "
    "`explorer.tokens` scored tokens.",
    (STEP, SEED, LAYER, NEURON),
    (
        Column(
            *("family", "text", ""),
            "Kind of the best explanation where it explains enough (config `families`), or "
            "`n-gram` where a neuron fires on few tokens; null for others and dead neurons.",
            nullable=True,
        ),
        Column(
            *("kind", "text", ""),
            "Kind of the best explanation, of those that explain enough if any does: `unigram`, "
            "`position`, `previous token`, `repetition`, `sentence end`, `space`, `capital`, "
            "`digit`, `punctuation`, `letter`, `part of speech` or `subset`; null where nothing "
            "explains anything.",
            nullable=True,
        ),
        Column("explanation", "text", "", "Which of its kind; null likewise.", nullable=True),
        Column(
            *("variance_reduction", "float64", "share"),
            "How much of its variance the explanation accounts for.",
        ),
        Column(
            *("share", "float64", "share"),
            "Tokens for which the explanation is true; null where that is not one thing, as for "
            "all positions together.",
            nullable=True,
        ),
        Column(
            *("contrast", "float64", "standard deviations"),
            "Mean activation where it is true less elsewhere; null likewise.",
            nullable=True,
        ),
        Column(
            *("position_mi", "float64", "nats"),
            "Mutual information of position and whether the activation is above 0.",
        ),
        Column(
            *("firing_tokens", "int64", "tokens"),
            "Fewest token ids with 95 % of its activations above 0; −1 where it has none, or that "
            "takes tokens beyond the 4,096 most frequent.",
        ),
        Column("dead", "bool", "", "Whether no activation is above 0."),
    ),
)
