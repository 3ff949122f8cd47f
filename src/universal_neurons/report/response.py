"""Loss change at equal perturbation: named sets of neurons beside others that change as much.

Ablating a set changes what the MLPs write by its energy E‖Δ‖², and the loss follows that. Sets of
other neurons, of many sizes, give the loss change as a function of the energy, model by model; a
named set is held against its value at the set's own energy. Where no others reach that energy,
nothing is said.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.report.contrasts import interval

# Sets that have a name of their own, where there are any such neurons, and what they are.
NAMED = {"universal": "universal", "universal_given_token": "universal given the token"}

# What a comparison says. *Not comparable* where no seed's others span the set's energy or change
# the loss clearly, *not known* where there is no interval, which takes two such seeds.
VERDICTS = ("not comparable", "not known", "more", "less", "undecided")

# Columns of `ratio_over_seeds`.
RATIO = ("n_seeds", "n_within", "ratio", "low", "high", "delta_loss", "expected", "verdict")


class Response:
    """Loss change of the other neurons of one model as a function of the energy.

    Parameters
    ----------
    others
        Sets of other neurons of one model: columns ``dose, energy, delta_loss, delta_loss_se``.
        Those of a size are averaged.
    """

    def __init__(self, others: pd.DataFrame) -> None:
        known = others[others["delta_loss"].notna() & (others["energy"] > 0)]
        columns = ["energy", "delta_loss", "delta_loss_se"]
        sizes = known.groupby("dose")[columns].mean().sort_values("energy")
        self.energy: NDArray[np.float64] = sizes["energy"].to_numpy()
        self._per_energy = (sizes["delta_loss"] / sizes["energy"]).to_numpy()
        self._error = (sizes["delta_loss_se"] / sizes["energy"]).to_numpy()

    def __call__(self, energy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Loss change at some energies; NaN where they are outside of the others' range.

        The loss change per unit of energy is interpolated linearly in the logarithm of the energy,
        so that a loss in proportion to the energy is met exactly.
        """
        return self._at(energy, self._per_energy)

    def error(self, energy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Its standard error over documents."""
        return self._at(energy, self._error)

    def _at(
        self, energy: NDArray[np.float64], per_energy: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if not len(self.energy):
            return np.full(np.shape(energy), np.nan)
        at = np.interp(np.log(energy), np.log(self.energy), per_energy, left=np.nan, right=np.nan)
        return at * energy


def responses(doses: pd.DataFrame) -> dict[str, Response]:
    """By seed, from the rows of a step of the table of that name."""
    others = doses[doses["neuron_set"] == "others"]
    return {str(seed): Response(rows) for seed, rows in others.groupby("seed", observed=True)}


def at_equal_energy(doses: pd.DataFrame, name: str) -> pd.DataFrame:
    """Hold every seed's sets of a name against others at equal energy.

    Parameters
    ----------
    doses
        Rows of one step of the table of that name.
    name
        The ``neuron_set``: ``top``, one of `NAMED`, or any other that was measured.

    Returns
    -------
    DataFrame
        One row per seed and dose: seed, dose, n_neurons, energy, delta_loss; expected (the others'
        loss change at that energy, NaN outside of their energies); ratio of both, NaN also where
        `expected` is not above two of its standard errors over documents; ratio_se, the set's own
        standard error over documents in units of `expected`.
    """
    curves = responses(doses)
    own = doses[(doses["neuron_set"] == name) & (doses["energy"] > 0)]
    own = own[["seed", "dose", "n_neurons", "energy", "delta_loss", "delta_loss_se"]]
    own = own[own["seed"].astype(str).isin(curves)].reset_index(drop=True)
    expected, error = np.full((2, len(own)), np.nan)
    for i, (seed, energy) in enumerate(zip(own["seed"].astype(str), own["energy"], strict=True)):
        expected[i], error[i] = curves[seed](energy), curves[seed].error(energy)
    # With a single document no error is known, and none can be asked for.
    clear = (expected > 0) & ~(expected <= 2 * error)
    scale = np.where(clear, expected, np.nan)
    return own.assign(
        expected=expected,
        ratio=own["delta_loss"] / scale,
        ratio_se=own["delta_loss_se"] / scale,
    ).drop(columns="delta_loss_se")


def ratio_over_seeds(compared: pd.DataFrame) -> dict[str, float | int | str]:
    """Average the ratios of `at_equal_energy` over seeds: of one dose, or of one set.

    Returns
    -------
    dict
        `RATIO`: n_seeds, n_within (seeds with a ratio); ratio, low, high (mean over these and its
        95 % interval, see `contrasts.interval`); delta_loss, expected (means over them); verdict,
        one of `VERDICTS`.
    """
    within = compared[compared["ratio"].notna()]
    ratio, low, high = interval(within["ratio"], within["ratio_se"])
    verdict = "undecided"
    if within.empty:
        verdict = "not comparable"
    elif np.isnan(low):
        verdict = "not known"
    elif low > 1 or high < 1:
        verdict = "more" if low > 1 else "less"
    return {
        "n_seeds": len(compared),
        "n_within": len(within),
        "ratio": ratio,
        "low": low,
        "high": high,
        "delta_loss": within["delta_loss"].mean(),
        "expected": within["expected"].mean(),
        "verdict": verdict,
    }
