"""Published numbers of universal neurons beside those of a run.

``make compare-published RUN=name``, for runs of GPT-2 Small.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from universal_neurons.errors import UserError

# 2401.12181: alias-gpt2-small-x21 against four other seeds at step 400,000, 100M tokens, excess
# correlation above 0.5, by layer.
GPT2_SMALL = [222, 244, 101, 110, 71, 72, 56, 112, 101, 142, 125, 177]
NEURONS_PER_LAYER = 3072


def compare(universality: pd.DataFrame) -> pd.DataFrame:
    """Count a run's universal neurons at its last step beside the published ones.

    Parameters
    ----------
    universality
        The table of a run: step, seed, layer, neuron, universal.

    Returns
    -------
    DataFrame
        One row per layer and a last row ``all``; the column ``2401.12181`` and one per seed.

    Raises
    ------
    UserError
        If the models are not of the size of GPT-2 Small.
    """
    last = universality[universality["step"] == universality["step"].max()]
    sizes = last.groupby(["seed", "layer"], observed=True).size().unstack("layer")
    if sizes.shape[1] != len(GPT2_SMALL) or not (sizes == NEURONS_PER_LAYER).all(axis=None):
        raise UserError(
            f"the published counts are of {len(GPT2_SMALL)} layers of {NEURONS_PER_LAYER} neurons "
            "(GPT-2 Small); the run's models have another size"
        )
    counts = last.groupby(["layer", "seed"], observed=True)["universal"].sum().unstack("seed")
    counts.insert(0, "2401.12181", GPT2_SMALL)
    counts.columns.name = None
    return pd.concat([counts, counts.sum().to_frame("all").T]).rename_axis("layer")


def page(results: str | Path) -> str:
    """What `compare` finds for a directory ``results/<run>``.

    Raises
    ------
    UserError
        If the run has no table yet, or of `compare`.
    """
    path = Path(results) / "universality.parquet"
    if not path.is_file():
        raise UserError(f"{path} is missing: run the workflow first, or give another run")
    table = pd.read_parquet(path, columns=["step", "seed", "layer", "universal"])
    return f"Universal neurons at step {table['step'].max()}:\n{compare(table).to_string()}"
