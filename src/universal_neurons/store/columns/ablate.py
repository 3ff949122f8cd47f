"""Columns of the tables that `ablate` makes."""

from __future__ import annotations

from universal_neurons.store.columns.declare import (
    EXCESS,
    LAYER_OR_ALL,
    SEED,
    STEP,
    WIDE_LAYER,
    WIDE_NEURON,
    Column,
    Table,
)

# Sets are comparable if neurons with partners have this share of the universal neurons' squared
# sizes, and if the energies as measured, in which neurons that go together count more than each
# alone, differ by no more than this factor (conventions).
LEAST_OVERLAP = 0.95
MOST_ENERGY_RATIO = 1.5

KIND = Column(
    *("kind", "text", ""),
    "What activations are replaced with: their `mean`, `zero`, or `resample` (their values at "
    "other held-out tokens).",
)
LOSS_KIND = Column(
    *("loss_kind", "text", ""),
    "What the losses are of: `next_token`, at every position but the last, or `masked`, at the "
    "tokens of an encoder's text that are masked.",
)
ENERGY = Column(
    *("energy", "float64", "squared residual stream"),
    "Squared length of the change of what the MLPs write, summed over layers, mean over held-out "
    "tokens; what is changed is the clean model's; null for an empty set.",
    nullable=True,
)
LATER = (
    Column(
        *("delta_loss_later", "float64", "nats per token"),
        "`delta_loss` without the prediction that is made at position 0; null for an empty set, "
        "and with sequences of two tokens.",
        nullable=True,
    ),
    Column(
        *("energy_later", "float64", "squared residual stream"),
        "`energy` without position 0; null where `delta_loss_later` is.",
        nullable=True,
    ),
)
CONTRAST = (
    Column(
        *("energy_ratio", "float64", "ratio"),
        "`energy` over the mean of the control sets'; null for control sets and without any.",
        nullable=True,
    ),
    Column(
        *("adjusted_difference", "float64", "nats per token"),
        "`delta_loss` less `energy_ratio` times the mean of the control sets', that is, what these "
        "would cost at the same energy if the loss is in proportion to it; null as `difference`.",
        nullable=True,
    ),
    Column(
        *("adjusted_difference_se", "float64", "nats per token"),
        "Its standard error, as `difference_se`; null where that is.",
        nullable=True,
    ),
    Column(
        *("overlap", "float64", "share"),
        "How much of the neurons' summed squared `perturbation` is of those with a partner within "
        "the calipers; of all layers the least of theirs; null for control sets and an empty set.",
        nullable=True,
    ),
    Column(
        *("comparable", "bool", ""),
        f"Whether the set and its controls are changed by as much: `overlap` at least "
        f"{LEAST_OVERLAP:g}, `energy_ratio` between 1/{MOST_ENERGY_RATIO:g} and "
        f"{MOST_ENERGY_RATIO:g}. Where not, differences say nothing of what the neurons are.",
    ),
)
CLEAN_LOSS = Column(
    "clean_loss", "float64", "nats per token", "Held-out loss of the model as it is."
)
CLEAN_LOSS_LATER = Column(
    *("clean_loss_later", "float64", "nats per token"),
    "`clean_loss` without the prediction that is made at position 0; null with sequences of two "
    "tokens.",
    nullable=True,
)
DELTA_LOSS = Column(
    *("delta_loss", "float64", "nats per token"),
    "Change of the held-out loss; null for an empty set.",
    nullable=True,
)
DELTA_LOSS_SE = Column(
    *("delta_loss_se", "float64", "nats per token"),
    "Its standard error over documents, from paired differences; null with one document.",
    nullable=True,
)
KL = Column(
    *("kl", "float64", "nats per token"),
    "Kullback–Leibler divergence of the ablated from the clean predictions; null for an empty set.",
    nullable=True,
)
TOP1_CHANGE = Column(
    *("top1_change", "float64", "share"),
    "Predictions whose likeliest token is another one; null for an empty set.",
    nullable=True,
)
DIFFERENCE = Column(
    *("difference", "float64", "nats per token"),
    "`delta_loss` less the mean of the control sets'; null for control sets and without any.",
    nullable=True,
)
DIFFERENCE_SE = Column(
    *("difference_se", "float64", "nats per token"),
    "Its standard error over documents, from paired differences, the sets being fixed; null where "
    "it is, and with one document.",
    nullable=True,
)
HOW = (
    Column(
        *("heldout_tokens", "int64", "tokens"),
        "Held-out tokens that losses are over; the same for all sets of a seed, step and kind.",
    ),
    Column(
        *("dtype", "text", ""),
        "In which the ablated passes multiplied matrices: `float32`, or `bfloat16`.",
    ),
    Column(
        *("dtype_error", "float64", "standard errors"),
        "Largest difference of `delta_loss` from that in float32, over its standard error, of some "
        "sets on the first of the text; null where all was in `float32`.",
        nullable=True,
    ),
)

ABLATION = Table(
    "ablation",
    "What the loss does when universal neurons, or control sets, are replaced. Loss is "
    "cross-entropy over all that is predicted in the held-out sequences. A layer without "
    "universal neurons has a row with `n_neurons` 0 and no control sets.",
    (
        STEP,
        SEED,
        LAYER_OR_ALL,
        KIND,
        Column("neuron_set", "text", "", "`universal` or `control`."),
        Column("draw", "int64", "", "Number of the control set, from 0; −1 for `universal`."),
    ),
    (
        Column("n_neurons", "int64", "neurons", "Neurons of the set."),
        Column(
            *("mean_norm", "float64", "activation"),
            "Root mean square activation, mean over the set; null for an empty one.",
            nullable=True,
        ),
        Column(
            *("mean_contribution", "float64", "residual stream"),
            "Norm of what a neuron writes to the residual stream (root mean square activation "
            "times norm of output weights), mean over the set; null for an empty one.",
            nullable=True,
        ),
        Column(
            *("mean_perturbation", "float64", "residual stream"),
            "Root mean square length of what ablating a neuron changes in that (`mean`: standard "
            "deviation times norm of output weights), mean over the set; null for an empty one. "
            "Control sets are matched on it and on sparsity.",
            nullable=True,
        ),
        Column(
            *("mean_sparsity", "float64", "share"),
            "Tokens with an activation above 0, mean over the set; null for an empty one.",
            nullable=True,
        ),
        LOSS_KIND,
        CLEAN_LOSS,
        CLEAN_LOSS_LATER,
        Column(
            *("ablated_loss", "float64", "nats per token"),
            "Held-out loss with the set replaced; null for an empty one.",
            nullable=True,
        ),
        DELTA_LOSS,
        DELTA_LOSS_SE,
        KL,
        TOP1_CHANGE,
        ENERGY,
        *LATER,
        Column(
            *("direct_delta_loss", "float64", "nats per token"),
            "`delta_loss` with all later blocks frozen: they see their clean input; of universal "
            "and the first control sets, else null.",
            nullable=True,
        ),
        DIFFERENCE,
        DIFFERENCE_SE,
        *CONTRAST,
        Column(
            *("permutation_p", "float64", "probability"),
            "(1 + distinct control sets with as large or a larger `delta_loss`) / (1 + distinct "
            "control sets); a p-value as far as the sets are exchangeable; null for control sets, "
            "without any, and where not `comparable`.",
            nullable=True,
        ),
        *HOW,
    ),
)

DOSES = Table(
    "doses",
    "The same for the neurons of largest excess correlation, whatever the threshold; and sets of "
    "other neurons, of many sizes, which say what the loss is at any `energy`. Only `top` has "
    "matched controls.",
    (
        STEP,
        SEED,
        KIND,
        Column(
            *("dose", "float64", "share"),
            "Fraction of all neurons of the model replaced; of `others` the one asked for.",
        ),
        Column(
            *("neuron_set", "text", ""),
            "`top`, `control` (matched with it one to one), `universal`, `universal_given_token` "
            "(where there are any), or `others`: random neurons outside of the largest dose and of "
            "the universal ones, in their shares of the layers.",
        ),
        Column(
            *("draw", "int64", ""),
            "Number of the set of controls or of others, from 0; −1 for the other sets.",
        ),
    ),
    (
        Column("n_neurons", "int64", "neurons", "Neurons of the set."),
        LOSS_KIND,
        DELTA_LOSS,
        DELTA_LOSS_SE,
        KL,
        TOP1_CHANGE,
        ENERGY,
        *LATER,
        DIFFERENCE,
        DIFFERENCE_SE,
        *CONTRAST,
        *HOW,
    ),
)

OF_ONE = (
    LOSS_KIND,
    Column(
        *("perturbation", "float64", "residual stream"),
        "Root mean square length of what replacing the neuron by its mean changes in the residual "
        "stream: standard deviation times norm of output weights.",
    ),
    Column(*("sparsity", "float64", "share"), "Scored tokens with an activation above 0."),
    Column("first_order", "float64", "nats per token", "First order of the estimate."),
    Column(
        *("second_order", "float64", "nats per token"),
        "Second order of the estimate (Gauss–Newton).",
    ),
    Column(
        *("attributed_delta_loss", "float64", "nats per token"),
        "Estimated change of the loss: the sum of both.",
    ),
    Column(
        *("delta_loss", "float64", "nats per token"),
        "Measured change of the loss; null outside the sample.",
        nullable=True,
    ),
    Column(
        *("delta_loss_se", "float64", "nats per token"),
        "Its standard error over documents; null where it is, and with one document.",
        nullable=True,
    ),
    Column(
        *("sampled", "text", ""),
        "Why it was measured: `top` (of the largest estimates) or `random`; else empty.",
    ),
)
EFFECTS = Table(
    "effects",
    "What replacing a single neuron by its mean does to the loss: estimated for all, measured for "
    "a sample.",
    (STEP, SEED, WIDE_LAYER, WIDE_NEURON),
    (EXCESS, *OF_ONE),
)

SINGLE = Table(
    "single",
    "What replacing a single neuron by its mean does to the loss: a part, joined into `effects`, "
    "and into `models` its clean losses.",
    (STEP, SEED, WIDE_LAYER, WIDE_NEURON),
    (*OF_ONE, CLEAN_LOSS, CLEAN_LOSS_LATER),
)

MEDIATION = Table(
    "mediation",
    "By which way neurons act on the loss: those with a role that says so (`entropy`, `token "
    "frequency`; 8 of each at most, with the largest output weights) and as many others of the "
    "same layers, each replaced by its mean (2406.16254).",
    (STEP, SEED, WIDE_LAYER, WIDE_NEURON),
    (
        Column("role", "text", "", "As in `roles`; null without one.", nullable=True),
        LOSS_KIND,
        Column("delta_loss", "float64", "nats per token", "Change of the held-out loss."),
        DELTA_LOSS_SE,
        Column(
            *("through_norm", "float64", "nats per token"),
            "What of it is missing where the final norm keeps the scale that every token had; null "
            "without a final norm.",
            nullable=True,
        ),
        Column(
            *("through_norm_se", "float64", "nats per token"),
            "Its standard error over documents; null where it is, and with one document.",
            nullable=True,
        ),
        Column(
            *("through_frequency", "float64", "nats per token"),
            "What of it is missing where the logits keep their component along the logarithm of "
            "the tokens' frequencies in the corpus.",
        ),
        Column(
            *("through_frequency_se", "float64", "nats per token"),
            "Its standard error over documents; null with one document.",
            nullable=True,
        ),
    ),
)
