"""Columns of the tables that `persist` makes."""

from __future__ import annotations

from universal_neurons.store.columns.declare import (
    LAYER,
    LAYER_OR_ALL,
    NEURON,
    SEED,
    STEP,
    WIDE_LAYER,
    WIDE_NEURON,
    Column,
    Table,
)

PERSISTENCE = Table(
    "persistence",
    "Overlap of a seed's universal neurons between every step and every later one; no rows with "
    "one step.",
    (
        SEED,
        LAYER_OR_ALL,
        Column("from_step", "int64", "", "The earlier step."),
        Column("to_step", "int64", "", "The later step."),
    ),
    (
        Column("n_from", "int64", "neurons", "Universal neurons at the earlier step."),
        Column("n_to", "int64", "neurons", "Universal neurons at the later step."),
        Column("n_both", "int64", "neurons", "Those universal at both."),
        Column(
            *("persistence", "float64", "share"),
            "`n_both` of `n_from`; null if that is 0.",
            nullable=True,
        ),
        Column(
            *("jaccard", "float64", "share"),
            "`n_both` of the neurons universal at either; null if there are none.",
            nullable=True,
        ),
        Column(
            *("ceiling", "float64", "share"),
            "Of the universal neurons at the earlier step, those expected to be so again if that "
            "step were measured anew with the noise of `excess_se`; null if `n_from` is 0 or "
            "activations were not stored.",
            nullable=True,
        ),
        Column(
            *("chance", "float64", "share"),
            "`n_to` of all neurons: the persistence expected of a random set.",
        ),
        Column(
            *("p_value", "float64", "probability"),
            "Of random sets, those with as large an overlap (hypergeometric); null if `n_from` "
            "is 0.",
            nullable=True,
        ),
        Column(
            *("odds_ratio", "float64", "ratio"),
            "Odds of being universal at the later step, of the neurons universal at the earlier "
            "one over the others, ½ added to all counts; null if `n_from` is 0.",
            nullable=True,
        ),
        Column(
            *("q_value", "float64", "probability"),
            "`p_value` as a false discovery rate (Benjamini–Hochberg) over all single layers of "
            "the table; null for all layers, and where `p_value` is.",
            nullable=True,
        ),
        Column(
            *("matched_chance", "float64", "share"),
            "The persistence expected if the neurons universal at the later step were drawn at "
            "random among neurons of the same layer that changed as much (groups of about 20 by "
            "`self_corr`); null if `n_from` is 0 or neurons were not traced.",
            nullable=True,
        ),
        Column(
            *("matched_p_value", "float64", "probability"),
            "Of such draws, those with as large an overlap (exact); null where `matched_chance` "
            "is.",
            nullable=True,
        ),
    ),
)

NEXT_CORR = Column(
    *("next_corr", "float64", "correlation"),
    "Correlation with that best match, signed.",
)
SELF_CORR = Column(
    *("self_corr", "float64", "correlation"),
    "Correlation with the neuron of the same layer and index at the next step.",
)
NEXT_LAYER = Column(
    *("next_layer", "int64", ""),
    "Layer of its best match in the same seed at the next step; −1 if it is dead on these tokens.",
)
NEXT_NEURON = Column(
    *("next_neuron", "int64", ""),
    "Index of that best match; −1 if it is dead on these tokens.",
)

TRACE = Table(
    "trace",
    "Where every neuron's function is at the next step; a part, joined into `trajectories`.",
    (SEED, STEP, WIDE_LAYER, WIDE_NEURON),
    (NEXT_LAYER, NEXT_NEURON, NEXT_CORR, SELF_CORR),
)

TRAJECTORIES = Table(
    "trajectories",
    "What becomes of every neuron over the steps.",
    (SEED, LAYER, NEURON, STEP),
    (
        Column(
            *("universal", "bool", ""),
            "As in `universality`; with `persistence.exit_threshold`, a neuron once universal "
            "stays so until its excess correlation is not above that.",
        ),
        Column(
            *("label", "text", ""),
            "Course over all steps: `never` universal; `emergent` at the last step only; "
            "`maintained` from the first time to the last step; `lost` after two steps or more; "
            "`transient` else.",
        ),
        Column(
            *("emergence_step", "int64", ""),
            "First step at which it is universal; −1 if it never is.",
        ),
        Column(
            *("p_universal", "float64", "probability"),
            "Probability that its true excess correlation is above the threshold, given the "
            "measured one and its standard error (tokens and rotations; empirical Bayes over the "
            "neurons of the step and layer); null where activations were not stored.",
            nullable=True,
        ),
        Column(
            *("emergence_low", "int64", ""),
            "First step at which `p_universal` is above .025: before it, it hardly is universal; "
            "−1 if it never is.",
        ),
        Column(
            *("emergence_high", "int64", ""),
            "First step at which `p_universal` is .975 or more; −1 if it never is.",
        ),
        Column(
            *("next_layer", "int64", ""),
            "Layer of its best match in the same seed at the next step; −1 at the last step and "
            "for a dead neuron.",
        ),
        Column(
            *("next_neuron", "int64", ""),
            "Index of that best match; −1 at the last step and for a dead neuron.",
        ),
        Column(
            *("next_corr", "float64", "correlation"),
            "Correlation with it, signed; null at the last step.",
            nullable=True,
        ),
        Column(
            *("self_corr", "float64", "correlation"),
            f"{SELF_CORR.meaning.removesuffix('.')}; null at the last step.",
            nullable=True,
        ),
    ),
)
