"""Columns of the tables that `score` makes."""

from __future__ import annotations

from universal_neurons.store.columns.declare import (
    EXCESS,
    LAYER,
    NEURON,
    SEED,
    STEP,
    UNIVERSAL,
    Column,
    Table,
)
from universal_neurons.store.columns.given import GIVEN, MATCHES_GIVEN

MATCHES = Table(
    "matches",
    "The best match of every neuron in every other seed.",
    (
        STEP,
        SEED,
        Column("other_seed", "seed", "", "The seed whose neurons it was compared with."),
        LAYER,
        NEURON,
    ),
    (
        Column(
            *("best_corr", "float64", "correlation"),
            "Largest correlation with a neuron of the other seed, signed; 0 for a dead neuron.",
        ),
        Column(
            *("best_corr_se", "float64", "correlation"),
            "Its standard error over groups of documents, of the match found; null where "
            "activations were not stored.",
            nullable=True,
        ),
        Column("best_layer", "int64", "", "Layer of that neuron; −1 for a dead neuron."),
        Column("best_neuron", "int64", "", "Index of that neuron; −1 for a dead neuron."),
        Column(
            *("baseline_corr", "float64", "correlation"),
            "Largest correlation with a neuron of the randomly rotated layers of the other seed, "
            "mean over the rotations.",
        ),
        Column(
            *("baseline_se", "float64", "correlation"),
            "Its standard error over the rotations, and of a sample that of the estimate; null "
            "with one rotation.",
            nullable=True,
        ),
        Column("min_corr", "float64", "correlation", "Most negative correlation."),
        Column(
            *("best_by", "text", ""),
            "How the best match is known: `comparison` with all neurons on all tokens, or "
            "(screened mode) `certificate` that on a sample no other came near it; `screening` has "
            "the error rate.",
        ),
        Column(
            *("baseline_by", "text", ""),
            "What the baseline rests on: `all tokens`, or an estimate from a `sample`.",
        ),
        Column("mutual", "bool", "", "Whether the best match's best match is the neuron itself."),
        Column(
            *("assigned_corr", "float64", "correlation"),
            "Correlation with its partner where neurons are assigned one to one; null without one.",
            nullable=True,
        ),
        Column("assigned_layer", "int32", "", "Layer of that partner; −1 without one."),
        Column("assigned_neuron", "int32", "", "Index of that partner; −1 without one."),
        *MATCHES_GIVEN,
    ),
)

SCORES = (
    Column(
        *("max_corr", "float64", "correlation"),
        "Largest correlation with a neuron of another seed, mean over the other seeds.",
    ),
    Column(
        *("baseline_corr", "float64", "correlation"),
        "The same with rotated neurons, mean over the rotations too.",
    ),
    EXCESS,
    Column(
        *("excess_se", "float64", "correlation"),
        "Its standard error, of tokens and rotations; null where activations were not stored.",
        nullable=True,
    ),
)

STRATUM = Column(
    *("stratum", "int64", ""),
    "Fifth of its seed's layer by kurtosis, 0 the smallest, that it is held against chance in; "
    "layers of fewer than 250 live neurons have fewer parts.",
)

UNIVERSALITY = Table(
    "universality",
    "The scores of every neuron.",
    (STEP, SEED, LAYER, NEURON),
    (
        *SCORES,
        Column(
            *("first_rotation_excess", "float64", "correlation"),
            "Excess correlation over the first rotation alone.",
        ),
        Column(
            *("other_choice_excess", "float64", "correlation"),
            "The same by the other choice of `baseline.standardise`: with standardised neurons "
            "where the baseline's are not, and the reverse; null in the screened mode.",
            nullable=True,
        ),
        STRATUM,
        Column(
            *("threshold", "float64", "correlation"),
            "Excess correlation above which a neuron of the seed, layer and stratum is universal "
            "by `universality.criterion`: `excess_threshold`, or where q-values begin to be below "
            "`false_discovery_rate`. Infinite if they never are, and for a neuron with fewer than "
            "10 `effective_tokens`.",
        ),
        Column("universal", "bool", "", "Whether the excess correlation is above the threshold."),
        Column(
            *("p_value", "float64", "probability"),
            "How often random directions in the other seeds' real MLP inputs reach the excess "
            "correlation; without them the largest p-value over the other nulls. Null where no "
            "null has values.",
            nullable=True,
        ),
        Column(
            *("q_value", "float64", "probability"),
            "The same as a false discovery rate among the neurons of the seed "
            "(Benjamini–Hochberg); null where the p-value is.",
            nullable=True,
        ),
        Column(
            *("local_fdr", "float64", "probability"),
            "Probability that the neuron is no better than the leading null, given its p-value "
            "(empirical Bayes over the neurons of the seed); null where the p-value is.",
            nullable=True,
        ),
        Column(
            *("assigned_excess", "float64", "correlation"),
            "Excess correlation with the partners assigned one to one in place of the best "
            "matches, 0 standing for the correlation where there is no partner.",
        ),
        Column("assigned_universal", "bool", "", "Whether that is above the threshold."),
        Column(
            *("n_matched", "int64", "seeds"),
            "Other seeds where its excess correlation is above the threshold.",
        ),
        Column("n_mutual", "int64", "seeds", "Other seeds where it has a mutual best match."),
        Column(
            *("n_mutual_permuted", "float64", "seeds"),
            "The same of models that read other sequences: so many are mutual by noise; null where "
            "activations were not stored.",
            nullable=True,
        ),
        Column(
            *("n_assigned", "int64", "seeds"),
            "Other seeds where its excess correlation with its partner is above the threshold.",
        ),
        Column(
            *("leave_one_out", "float64", "share"),
            "Of the other seeds without which it is still universal, those where it is matched; "
            "null if there is no such seed, as with two seeds in all.",
            nullable=True,
        ),
        Column("leave_one_out_cases", "int64", "seeds", "The number of such seeds."),
        Column("in_group", "bool", "", "Whether it is in a group, see `groups`."),
        Column(
            *("regression_r2", "float64", "share"),
            "Share of its variance that a ridge regression on all neurons of one layer of another "
            "seed explains, adjusted for their number; of the best layer, mean over the other "
            "seeds; null for a dead neuron, in the screened mode, and without "
            "`correlate.similarity`.",
            nullable=True,
        ),
        *GIVEN,
    ),
)

UNTRAINED = Table(
    "untrained",
    "Scores of two models with random weights, where the run has no step 0.",
    (STEP, Column("seed", "text", "", "`untrained 0` or `untrained 1`."), LAYER, NEURON),
    (*SCORES, STRATUM),
)

GROUPS = Table(
    "groups",
    "Groups of neurons, one of each seed, every two of which are mutual best matches.",
    (
        STEP,
        Column("group", "int64", "", "Number of the group, largest mean correlation first."),
        SEED,
    ),
    (
        LAYER,
        NEURON,
        EXCESS,
        UNIVERSAL,
        Column(
            *("group_mean_corr", "float64", "correlation"),
            "Mean correlation between the group's members.",
        ),
        Column(
            *("group_min_corr", "float64", "correlation"),
            "Smallest correlation between the group's members.",
        ),
        Column(
            *("n_permuted", "float64", "groups"),
            "Groups that there are at the step if every model reads other sequences: by noise; "
            "null where activations were not stored.",
            nullable=True,
        ),
    ),
)

NULLS = Table(
    "nulls",
    "Distribution of excess correlation under every null, all seeds and layers as one.",
    (
        STEP,
        Column(
            *("null", "text", ""),
            "`random directions` (in the other seeds' real MLP inputs: p- and q-values are against "
            "these), `rotated` (random rotations), `untrained` models, or "
            "`permuted` (other sequences: a check on noise).",
        ),
        Column("low", "float64", "correlation", "Lower end of a bin, which belongs to it."),
    ),
    (
        Column("high", "float64", "correlation", "Upper end of the bin, which does not."),
        Column("n", "int64", "values", "Values in the bin; bins without any have no row."),
    ),
)

# Measures that take spectra are not computed of all pairs of wide layers.
ONLY_LIKE = "null for layers wider than 1,024 neurons that are not of like depth"
# The soft matchings divide neurons of layers of unlike width into equal parts.
UNLIKE_WIDTHS = "null for widths whose least common multiple is above 8,192"
SIMILARITY = Table(
    "similarity",
    "How alike every two layers of every pair of seeds are; no rows in the screened mode, and "
    "without `correlate.similarity`.",
    (
        STEP,
        SEED,
        Column("other_seed", "seed", "", "The other seed; every pair is there once."),
        LAYER,
        Column("other_layer", "int32", "", "Layer of the other seed."),
    ),
    (
        Column(
            *("cka", "float64", "share"),
            "Linear CKA: 1 if one layer is a rotation of the other; null for a dead layer.",
            nullable=True,
        ),
        Column(
            *("pwcca", "float64", "correlation"),
            "Mean canonical correlation weighted by projections (PWCCA), of both projections: 1 "
            f"of any invertible linear map; {ONLY_LIKE}.",
            nullable=True,
        ),
        Column(
            *("procrustes", "float64", "correlation"),
            "Correlation of the layers' activations in the best rotation, the cosine of the "
            f"angular Procrustes distance; {ONLY_LIKE}.",
            nullable=True,
        ),
        Column(
            *("soft_matching", "float64", "correlation"),
            "Mean correlation of the best matching of all neurons with all, one to one for layers "
            f"of one width; {UNLIKE_WIDTHS}.",
            nullable=True,
        ),
        Column(
            *("unmatched_mass", "float64", "share"),
            "Neurons, as a share, that stay without a partner where a match must be worth more "
            f"than a correlation of 0.5; {UNLIKE_WIDTHS}.",
            nullable=True,
        ),
        Column(
            *("matched_corr", "float64", "correlation"),
            "Mean correlation of the others with their partners; null if there are none.",
            nullable=True,
        ),
    ),
)

TOKEN_BUDGET = Table(
    "token_budget",
    "Scores of a sample of neurons on fewer tokens; no rows with one shard or in screened mode.",
    (
        STEP,
        SEED,
        Column(
            *("part", "text", ""),
            "`first` (the first shards) or `all`, compared with all shards, or `second half`, "
            "compared with the first half.",
        ),
        Column("n_shards", "int64", "shards", "Shards of the part."),
    ),
    (
        Column("n_tokens", "int64", "tokens", "Scored tokens of the part."),
        Column("n_neurons", "int64", "neurons", "Neurons of the sample."),
        Column("n_universal", "int64", "neurons", "Those universal by the part's tokens."),
        Column(
            *("jaccard", "float64", "share"),
            "Jaccard index of the two universal sets; null if both are empty.",
            nullable=True,
        ),
        Column(
            *("rank_corr", "float64", "correlation"),
            "Rank correlation (Spearman) of the two excess correlations; null where one is "
            "constant.",
            nullable=True,
        ),
        Column(
            *("corr", "float64", "correlation"),
            "Their Pearson correlation; null where one is constant.",
            nullable=True,
        ),
        Column(
            *("reliability", "float64", "correlation"),
            "Of the second half: reliability of the excess of all tokens, by Spearman and Brown; "
            "else null.",
            nullable=True,
        ),
    ),
)

# Tokens of a sample below which the estimated baselines change the number of universal neurons by
# more than 2 % (measured: docs/method.md).
LEAST_SAMPLE = 20_000

SCREENING = Table(
    "screening",
    "How best matches were found in the screened mode, and what its audit says; no rows in exact.",
    (
        STEP,
        SEED,
        Column("other_seed", "seed", "", "The seed whose neurons it was compared with."),
    ),
    (
        Column("n_tokens", "int64", "tokens", "Scored tokens."),
        Column("sampled_tokens", "int64", "tokens", "Those of the sample."),
        Column(
            *("rare", "int64", "neurons"),
            "Neurons compared with all on all tokens because their variance sits in too few.",
        ),
        Column(
            *("undecided", "int64", "neurons"),
            "Neurons compared with all on all tokens for lack of a certificate.",
        ),
        Column("certified", "int64", "neurons", "Neurons with a certificate from the sample."),
        Column(
            *("audited", "int64", "neurons"),
            "Those of them that were compared with all on all tokens nevertheless, at random.",
        ),
        Column("wrong", "int64", "neurons", "Those of the audited whose certificate was wrong."),
        Column(
            *("wrong_upper", "float64", "share"),
            "Upper 95 % confidence bound of the share of wrong certificates (Clopper–Pearson); "
            "null where none was audited.",
            nullable=True,
        ),
        Column(
            *("baseline_shift", "float64", "correlation"),
            "Baseline on all tokens less that of the sample, mean over the audited neurons; null "
            "where no baseline rests on the sample.",
            nullable=True,
        ),
        Column(
            *("baseline_error", "float64", "correlation"),
            "Root mean square error of the baselines estimated from the sample, once corrected by "
            "the audited ones; null where none is.",
            nullable=True,
        ),
    ),
)
