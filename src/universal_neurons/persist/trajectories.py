"""What becomes of every neuron over the steps: when it turns universal, and whether it stays so."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from universal_neurons.errors import UserError
from universal_neurons.models.facts import read_facts
from universal_neurons.persist.replicate import probability_above
from universal_neurons.store.columns.persist import TRACE
from universal_neurons.store.files import again
from universal_neurons.store.tables import attributes_of, read_part

LABELS = ("never", "emergent", "maintained", "transient", "lost")
KEYS = ["seed", "layer", "neuron", "step"]
JUDGED = ["excess_corr", "excess_se", "threshold"]
NEXT = ("next_layer", "next_neuron", "next_corr", "self_corr")
# Of an interval: a neuron is universal from a step on with this probability, or with the rest.
SURE = 0.975


def leaving_threshold(
    threshold: NDArray[np.float64], exit_threshold: float | None
) -> NDArray[np.float64]:
    """Excess correlation above which a neuron that is universal stays so.

    The exit threshold, or the threshold itself without one; where the threshold is infinite nothing
    is universal, and stays so.
    """
    if exit_threshold is None:
        return threshold
    return np.where(np.isinf(threshold), threshold, exit_threshold)


def with_hysteresis(
    excess: NDArray[np.float64], threshold: NDArray[np.float64], exit_threshold: float
) -> NDArray[np.bool_]:
    """Which neurons are universal when leaving takes more than falling below the threshold.

    A neuron turns universal when its excess correlation is above the threshold, and is so until
    the excess is not above the exit threshold: noise about a single threshold no longer counts as
    loss and return.

    Parameters
    ----------
    excess, threshold
        Shape (steps, neurons), steps in order.
    exit_threshold
        At most the threshold.

    Returns
    -------
    array
        Shape (steps, neurons).
    """
    enters, stays = excess > threshold, excess > leaving_threshold(threshold, exit_threshold)
    universal = np.empty(excess.shape, bool)
    before = np.zeros(excess.shape[1], bool)
    for t in range(len(excess)):
        before = universal[t] = enters[t] | (stays[t] & before)
    return universal


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


def trajectories(
    universality: pd.DataFrame, traces: pd.DataFrame, exit_threshold: float | None = None
) -> pd.DataFrame:
    """One row per seed, layer, neuron and step.

    Parameters
    ----------
    universality
        Columns `KEYS`, ``universal`` and `JUDGED`; each seed has the same steps and neurons.
    traces
        As `trace.trace` makes them, of any steps.
    exit_threshold
        Of `with_hysteresis`, if a neuron universal at a step is to stay so until then.

    Returns
    -------
    DataFrame
        `columns.persist.TRAJECTORIES`, sorted by seed, layer, neuron and step.
    """
    table = universality.sort_values(KEYS, ignore_index=True)
    table["p_universal"] = _p_universal(table)
    parts = []
    for _, own in table.groupby("seed", sort=False, observed=True):
        steps = np.sort(own["step"].unique())
        universal = _by_step(own["universal"], steps).astype(bool)
        if exit_threshold is not None:
            excess, threshold = (_by_step(own[k], steps) for k in ("excess_corr", "threshold"))
            universal = with_hysteresis(excess, threshold, exit_threshold)
        p = _by_step(own["p_universal"], steps)
        emergence, earliest, latest = (
            np.repeat(_first(reached, steps), len(steps))
            for reached in (universal, p > 1 - SURE, p >= SURE)
        )
        parts.append(
            own[[*KEYS, "p_universal"]].assign(
                universal=universal.T.ravel(),
                label=np.repeat(label(universal), len(steps)),
                emergence_step=emergence,
                emergence_low=earliest,
                emergence_high=latest,
            )
        )
    table = pd.concat(parts, ignore_index=True)
    traced = traces[[*KEYS, *NEXT]].astype(table[KEYS].dtypes.to_dict())
    joined = table.merge(traced, on=KEYS, how="left").astype(
        {"next_corr": float, "self_corr": float}
    )
    places = {name: joined[name].fillna(-1).astype("int64") for name in NEXT[:2]}
    return joined.assign(**places)


def _p_universal(table: pd.DataFrame) -> NDArray[np.float64]:
    """Probability that each neuron's true excess is above its threshold, fitted per step, layer."""
    score, error, threshold = (table[name].to_numpy(float) for name in JUDGED)
    p = np.full(len(table), np.nan)
    for rows in table.groupby(["step", "layer"]).indices.values():
        p[rows] = probability_above(score[rows], error[rows], threshold[rows])
    return p


def _first(reached: NDArray[np.bool_], steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """First step at which each neuron has reached something, shape (neurons,); −1 if never."""
    return np.where(reached.any(0), steps[reached.argmax(0)], -1)


def _by_step(column: pd.Series, steps: NDArray[np.int64]) -> NDArray:
    """A column sorted by neuron, then step, as an array of shape (steps, neurons)."""
    return column.to_numpy().reshape(-1, len(steps)).T


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
    """Share of the neurons that emerged at a step and have been universal ever since.

    All seeds and layers are pooled. Every neuron is followed to the last step, so the share is a
    plain proportion, which Kaplan and Meier's estimate equals here. Times are the saved steps: when
    between two of them a neuron is lost is not known.

    Parameters
    ----------
    trajectories
        Columns ``seed, layer, neuron, step, universal, emergence_step``.

    Returns
    -------
    DataFrame
        One row per ``emergence_step`` before the last and ``step`` from it on: ``n`` (neurons of
        the cohort), ``survival``, ``low``, ``high`` (95 %, Wilson 1927; they treat neurons as
        independent) and ``chance``: the survival expected if at every later step as many neurons
        of each seed and layer as are universal were drawn at random.
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
        n = int(cohort.sum())
        if not n:
            continue
        lasting_to = np.logical_and.accumulate(universal[cohort, i + 1 :], 1).sum(0)
        by_chance = share[cohort, i + 1 :].cumprod(1).mean(0)
        rows.append((start, start, n, 1.0, 1.0, 1.0, 1.0))
        for step, k, chance in zip(steps[i + 1 :], lasting_to.tolist(), by_chance, strict=True):
            band = binomtest(k, n).proportion_ci(method="wilson")
            rows.append((start, step, n, k / n, band.low, band.high, chance))
    return pd.DataFrame(rows, columns=columns)
