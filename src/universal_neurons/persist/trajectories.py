"""What becomes of every neuron over the steps: when it turns universal, and whether it stays so."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import CensoredData, ecdf

from universal_neurons.errors import UserError
from universal_neurons.models.facts import read_facts
from universal_neurons.store.columns.persist import TRACE
from universal_neurons.store.files import again
from universal_neurons.store.tables import attributes_of, read_part

LABELS = ("never", "emergent", "maintained", "transient", "lost")
KEYS = ["seed", "layer", "neuron", "step"]
NEXT = ("next_layer", "next_neuron", "next_corr", "self_corr")


def label(universal: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Name the course of every neuron by the steps at which it is universal.

    Parameters
    ----------
    universal
        Shape (steps, neurons), steps in order.

    Returns
    -------
    array
        Shape (neurons,), each one of `LABELS`:

        - ``never``: universal at no step;
        - ``emergent``: at the last step only, so that nothing is known of its fate;
        - ``maintained``: from its first universal step to the last without a break, two or more;
        - ``lost``: not at the last step, but at two or more steps running before it;
        - ``transient``: any other: it came and went.
    """
    last = universal[-1]
    ever = universal.any(0)
    first = universal.argmax(0)
    unbroken = last & (universal.sum(0) == len(universal) - first)
    twice = (universal[1:] & universal[:-1]).any(0)
    return np.select(
        [
            ~ever,
            unbroken & (first == len(universal) - 1),
            unbroken,
            ~last & twice,
        ],
        ["never", "emergent", "maintained", "lost"],
        "transient",
    )


def trajectories(universality: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """One row per seed, layer, neuron and step.

    Parameters
    ----------
    universality
        Columns ``seed, step, layer, neuron, universal``; each seed has the same steps and neurons.
    traces
        As `trace.trace` makes them, of any steps.

    Returns
    -------
    DataFrame
        `columns.persist.TRAJECTORIES`, sorted by seed, layer, neuron and step.
    """
    table = universality[[*KEYS, "universal"]].sort_values(KEYS, ignore_index=True)
    parts = []
    for _, own in table.groupby("seed", sort=False, observed=True):
        steps = np.sort(own["step"].unique())
        universal = own["universal"].to_numpy(bool).reshape(-1, len(steps)).T
        emergence = np.where(universal.any(0), steps[universal.argmax(0)], -1)
        parts.append(
            own.assign(
                label=np.repeat(label(universal), len(steps)),
                emergence_step=np.repeat(emergence, len(steps)),
            )
        )
    table = pd.concat(parts, ignore_index=True)
    traced = traces[[*KEYS, *NEXT]].astype(table[KEYS].dtypes.to_dict())
    joined = table.merge(traced, on=KEYS, how="left").astype(
        {"next_corr": float, "self_corr": float}
    )
    places = {name: joined[name].fillna(-1).astype("int64") for name in NEXT[:2]}
    return joined.assign(**places)


def read_traces(paths: Iterable[str | Path], facts: Iterable[str | Path] = ()) -> pd.DataFrame:
    """Read the tables of `trace.trace`; one without rows where there are none.

    Parameters
    ----------
    paths
        Of the tables, each of one seed and step.
    facts
        What the capture says of all models, see `models.facts`.

    Raises
    ------
    UserError
        If a table is damaged, or was made with other weights than were captured; those of earlier
        versions do not say with which.
    """
    known = {(about["seed"], about["step"]): about["sha256"] for about in map(read_facts, facts)}
    tables = []
    for path in paths:
        tables.append(read_part(path, TRACE))
        seed, first = tables[-1][["seed", "step"]].iloc[0]
        steps = sorted(step for own, step in known if own == seed and step >= first)
        for step, digest in zip(steps, attributes_of(path).get("weights", ()), strict=False):
            if digest != known[seed, step]:
                raise UserError(
                    f"{path}: made with other weights of seed {seed}, step {step} (SHA-256 "
                    f"{digest[:12]}…) than were captured ({known[seed, step][:12]}…); {again(path)}"
                )
    return pd.concat(tables) if tables else pd.DataFrame(columns=TRACE.names)


def survival(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Kaplan–Meier curves of staying universal, by emergence step.

    The event is the first step at which a neuron that has emerged is no longer universal, whether
    it comes back or not; a neuron universal throughout is censored at the last step. All seeds and
    layers are pooled. Times are the saved steps: when between two of them it happens is not known.

    Parameters
    ----------
    trajectories
        Columns ``seed, layer, neuron, step, universal, emergence_step``.

    Returns
    -------
    DataFrame
        One row per ``emergence_step`` before the last and ``step`` from it on: ``n`` (neurons of
        the cohort), ``survival``, ``low``, ``high`` (95 %, Greenwood's variance on the log-log
        scale, NaN where all or none are left; they treat neurons as independent) and
        ``chance``: the survival expected if at every later step as many neurons of each seed and
        layer as are universal were drawn at random.
    """
    steps = np.sort(trajectories["step"].unique())
    columns = ["emergence_step", "step", "n", "survival", "low", "high", "chance"]
    lasting = trajectories.sort_values(KEYS)
    cells = lasting.groupby(["seed", "layer", "step"], observed=True)
    share = cells["universal"].transform("mean").to_numpy(float).reshape(-1, len(steps))
    universal = lasting["universal"].to_numpy(bool).reshape(-1, len(steps))
    emergence = lasting["emergence_step"].to_numpy()[:: len(steps)]
    rows = []
    for i, start in enumerate(steps[:-1]):
        cohort = emergence == start
        if not cohort.any():
            continue
        after = universal[cohort, i + 1 :]
        ended = ~after.all(1)
        time = np.where(ended, (~after).argmax(1) + 1, after.shape[1])
        data = CensoredData(uncensored=time[ended], right=time[~ended])
        curve = ecdf(data).sf
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            band = curve.confidence_interval(method="log-log")  # NaN where all or none are left
        by_chance = share[cohort, i + 1 :].cumprod(1).mean(0)
        rows.append((start, start, cohort.sum(), 1.0, 1.0, 1.0, 1.0))
        for k in range(1, after.shape[1] + 1):
            values = [float(f.evaluate(k)) for f in (curve, band.low, band.high)]
            rows.append((start, steps[i + k], cohort.sum(), *values, by_chance[k - 1]))
    return pd.DataFrame(rows, columns=columns)
