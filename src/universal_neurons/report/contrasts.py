"""What ablated neurons do to the loss beside their control sets, over seeds.

A difference is judged only between sets that are changed by as much (`comparable`, see
`ablate.controls`), and twice: as it is, and with the controls' loss scaled to the same energy.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import t

# What a comparison says. *Not comparable* where no seed's sets are, *not known* where there is no
# interval, which takes two comparable seeds and two held-out documents.
VERDICTS = ("not comparable", "not known", "more", "less", "size", "undecided")

# Means over all seeds, of columns of `contrasts`.
_MEANS = (
    *("n_neurons", "universal", "control", "universal_energy", "control_energy"),
    *("universal_later", "control_later"),
)


def contrasts(table: pd.DataFrame, keys: list[str], name: str) -> pd.DataFrame:
    """Set the neurons of interest beside their control sets, model by model.

    Parameters
    ----------
    table
        Columns of `keys`, ``seed, neuron_set, n_neurons, delta_loss, delta_loss_se, energy,
        delta_loss_later, difference, difference_se, adjusted_difference, adjusted_difference_se,
        energy_ratio, overlap, comparable``.
    keys
        What makes a comparison, beside the seed.
    name
        The ``neuron_set`` of interest: ``universal`` or ``top``.

    Returns
    -------
    DataFrame
        One row per comparison and seed with any such neurons and at least one control set: `keys`,
        seed, n_neurons, the last seven columns above; universal, universal_se, universal_energy,
        universal_later (loss change of the neurons, its standard error over documents, energy,
        change without position 0); control, control_se, control_energy, control_later (means over
        the sets), control_sd, control_max (of their loss changes), n_controls, control_neurons
        (neurons of the smallest set).
    """
    keys = [*keys, "seed"]
    own = {
        "delta_loss": "universal",
        "delta_loss_se": "universal_se",
        "energy": "universal_energy",
        "delta_loss_later": "universal_later",
    }
    compared = [
        *("difference", "difference_se", "adjusted_difference", "adjusted_difference_se"),
        *("energy_ratio", "overlap", "comparable"),
    ]
    measured = table[(table["n_neurons"] > 0) & table["delta_loss"].notna()]
    universal = measured.loc[
        measured["neuron_set"] == name, [*keys, "n_neurons", *own, *compared]
    ].rename(columns=own)
    control = (
        measured[measured["neuron_set"] == "control"]
        .groupby(keys, observed=True)
        .agg(
            control=("delta_loss", "mean"),
            control_se=("delta_loss_se", "mean"),
            control_energy=("energy", "mean"),
            control_later=("delta_loss_later", "mean"),
            control_sd=("delta_loss", "std"),
            control_max=("delta_loss", "max"),
            n_controls=("delta_loss", "size"),
            control_neurons=("n_neurons", "min"),
        )
        .reset_index()
    )
    return universal.merge(control, on=keys)


def over_seeds(compared: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Average `contrasts` over seeds; differences over those whose sets are comparable.

    Returns
    -------
    DataFrame
        One row per comparison: n_seeds, n_comparable; means over all seeds of n_neurons, universal,
        control, their energies and their changes without position 0; n_controls (fewest),
        universal_se (of the mean, over seeds and documents), control_sd (over control sets, of the
        mean over seeds). Over the comparable seeds: difference, low, high, adjusted, adjusted_low,
        adjusted_high (`interval`), energy_ratio (mean), n_above, n_above_all (seeds whose
        difference is positive; that lose more than with any control set), ratio (universal over
        control, NaN where the controls' change is not clearly above 0). And verdict, one of
        `VERDICTS`: ``more`` or ``less`` where both intervals are on one side of 0, ``size`` where
        that of the difference is and that at equal energy is not.
    """
    if compared.empty:
        return pd.DataFrame(columns=[*keys, "verdict"])
    rows = [
        {**dict(zip(keys, key, strict=True)), **_over_seeds(rows)}
        for key, rows in compared.groupby(keys, observed=True)
    ]
    return pd.DataFrame(rows)


def _over_seeds(rows: pd.DataFrame) -> dict[str, float | int | str]:
    alike = rows[rows["comparable"].astype(bool)]
    difference, low, high = interval(alike["difference"], alike["difference_se"])
    adjusted, adjusted_low, adjusted_high = interval(
        alike["adjusted_difference"], alike["adjusted_difference_se"]
    )
    clear = alike["control"].mean() > 2 * alike["control_se"].mean()
    return {
        "n_seeds": len(rows),
        "n_comparable": len(alike),
        **{name: rows[name].mean() for name in _MEANS},
        "n_controls": int(rows["n_controls"].min()),
        "universal_se": _standard_error(rows["universal"], rows["universal_se"]),
        "control_sd": np.sqrt((rows["control_sd"] ** 2).sum(min_count=1)) / len(rows),
        "difference": difference,
        "low": low,
        "high": high,
        "adjusted": adjusted,
        "adjusted_low": adjusted_low,
        "adjusted_high": adjusted_high,
        "energy_ratio": alike["energy_ratio"].mean(),
        "overlap": rows["overlap"].mean(),
        "n_above": int((alike["difference"] > 0).sum()),
        "n_above_all": int((alike["universal"] > alike["control_max"]).sum()),
        "ratio": alike["universal"].mean() / alike["control"].mean() if clear else np.nan,
        "verdict": _verdict(len(alike), (low, high), (adjusted_low, adjusted_high)),
    }


def interval(values: pd.Series, errors: pd.Series) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % interval, for the choice of seeds and of held-out documents.

    Seeds are independent of each other, so Student's t of their values, whose spread has everything
    in it that differs between seeds: the model, its universal neurons, the draw of its controls.
    All seeds see the same held-out documents, whose errors need not average out: the mean of the
    paired standard errors `errors` is added as if they were the same in all. NaN for one seed.
    """
    half = np.nan
    if len(values) > 1:
        half = t.ppf(0.975, len(values) - 1) * _standard_error(values, errors)
    mean = float(values.mean())
    return mean, mean - half, mean + half


def _standard_error(values: pd.Series, errors: pd.Series) -> float:
    """Of the mean over seeds; of one seed the error over documents alone."""
    between = values.var(ddof=1) / len(values) if len(values) > 1 else 0.0
    return float(np.sqrt(between + errors.mean() ** 2))


def _verdict(n: int, plain: tuple[float, float], adjusted: tuple[float, float]) -> str:
    if n == 0:
        return "not comparable"
    if np.isnan([*plain, *adjusted]).any():
        return "not known"
    # The side of 0 that an interval is on, or 0.
    side, same = (int(low > 0) - int(high < 0) for low, high in (plain, adjusted))
    if not side:
        return "undecided"
    if side != same:
        return "size"
    return "more" if side > 0 else "less"
