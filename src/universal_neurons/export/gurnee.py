"""A seed's neurons with the columns of the ``universal.csv`` of 2401.12181."""

from __future__ import annotations

import pandas as pd

from universal_neurons.api.run import Run

# Columns of `roles` by the names that they have there.
ROLES = {
    "w_in_norm": "w_in_norm",
    "input_bias": "input_bias",
    "w_out_norm": "w_out_norm",
    "in_out_cos": "in_out_sim",
    "l2_penalty": "l2_penalty",
    "vocab_mean": "vocab_mean",
    "vocab_var": "vocab_var",
    "vocab_skew": "vocab_skew",
    "vocab_kurt": "vocab_kurt",
}
# The same of `neurons`.
MOMENTS = {
    "mean": "mean",
    "std": "std",
    "skewness": "skew",
    "kurtosis": "kurt",
    "sparsity": "sparsity",
}
# In the order of the published table.
COLUMNS = (
    *("layer", "neuron", "max_corr", "mean_corr", "min_corr"),
    *("max_baseline", "min_baseline", "mean_baseline"),
    *("w_in_norm", "input_bias", "w_out_norm", "in_out_sim", "l2_penalty"),
    *("mean", "var", "skew", "kurt", "vocab_mean", "vocab_var", "vocab_skew", "vocab_kurt"),
    *("sparsity", "excess_corr"),
)
DIFFERENCES = """\
Where definitions differ from the published table's:
  mean, var, skew, kurt   of the activation, exact; there of the pre-activation, from histogram bins
  sparsity                share of tokens with an activation above 0; there with a pre-activation
  kurt, vocab_kurt        3 for a normal distribution in both
  *_baseline              mean over all rotations, orthogonal ones; there one random map"""


def universal_csv(run: Run, seed: str, step: int) -> pd.DataFrame:
    """The neurons of a seed at a step.

    ``max_corr``, ``mean_corr`` and ``min_corr`` are over the other seeds, of the best match in
    each; the baselines likewise.

    Parameters
    ----------
    run
        The run.
    seed, step
        The model.

    Returns
    -------
    DataFrame
        `COLUMNS`, a row per neuron, sorted by layer and neuron; those of the weights are missing
        (NaN) where the run has no table ``roles``.

    Raises
    ------
    UserError
        If the run has no such seed or step.
    """
    keys = ["layer", "neuron"]
    found = run.rows("matches", seed=seed, step=step).groupby(keys, sort=True)
    table = pd.DataFrame(
        {
            f"{kind}_{short}": getattr(found[column], kind)()
            for column, short in (("best_corr", "corr"), ("baseline_corr", "baseline"))
            for kind in ("max", "mean", "min")
        }
    )
    table["excess_corr"] = table["mean_corr"] - table["mean_baseline"]
    for name, columns in (("neurons", MOMENTS), ("roles", ROLES)):
        if name in run.tables:
            more = run.rows(name, seed=seed, step=step).set_index(keys)
            table = table.join(more[list(columns)].rename(columns=columns))
    table["var"] = table["std"] ** 2
    return table.reset_index().reindex(columns=list(COLUMNS))
