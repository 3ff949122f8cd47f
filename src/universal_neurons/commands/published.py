"""Published numbers of universal neurons beside those of a run.

``make compare-published RUN=name``, for runs of GPT-2 Small, GPT-2 Medium or Pythia 160M.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from universal_neurons.errors import UserError


class Published(NamedTuple):
    """Universal neurons of a model.

    Attributes
    ----------
    d_mlp
        Neurons per layer.
    universal
        By layer, those that are universal.
    """

    d_mlp: int
    universal: tuple[int, ...]

    @property
    def size(self) -> str:
        """For messages."""
        return f"{len(self.universal)} layers of {self.d_mlp} neurons"


# 2401.12181: excess correlation above 0.5 at the last step, on 100M tokens. GPT-2 is the Stanford
# CRFM's x21 (alias, arwen) against four other seeds; Pythia is the first one, against three by its
# table's means. Of Medium and Pythia we counted the rows of the released tables, `universal.csv`
# of wesg52/universal-neurons at 461ad6a.
PUBLISHED = {
    "GPT-2 Small": Published(3072, (222, 244, 101, 110, 71, 72, 56, 112, 101, 142, 125, 177)),
    "GPT-2 Medium": Published(
        4096,
        (
            *(132, 140, 44, 40, 40, 30, 23, 21, 26, 24, 25, 17),
            *(36, 36, 57, 52, 53, 56, 49, 55, 46, 52, 61, 96),
        ),
    ),
    "Pythia 160M": Published(3072, (64, 14, 19, 5, 27, 34, 43, 39, 67, 50, 50, 53)),
}


def compare(universality: pd.DataFrame) -> pd.DataFrame:
    """Count a run's universal neurons at its last step beside the published ones.

    Parameters
    ----------
    universality
        The table of a run: step, seed, layer, neuron, universal.

    Returns
    -------
    DataFrame
        One row per layer and a last row ``all``; a column for every published model of the size of
        the run's, and one per seed.

    Raises
    ------
    UserError
        If no published model is of that size.
    """
    last = universality[universality["step"] == universality["step"].max()]
    sizes = last.groupby(["seed", "layer"], observed=True).size().unstack("layer")
    counts = last.groupby(["layer", "seed"], observed=True)["universal"].sum().unstack("seed")
    alike = {
        name: model.universal
        for name, model in PUBLISHED.items()
        if sizes.shape[1] == len(model.universal) and (sizes == model.d_mlp).all(axis=None)
    }
    if not alike:
        known = "; ".join(f"{name}, {model.size}" for name, model in PUBLISHED.items())
        raise UserError(f"no counts are published for models of the run's size, but for: {known}")
    counts.columns = counts.columns.astype(str)
    counts = pd.concat([pd.DataFrame(alike, counts.index), counts], axis=1)
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
    return (
        f"Universal neurons at step {table['step'].max()}, beside those of 2401.12181:\n"
        f"{compare(table).to_string()}"
    )
