"""How the screened mode found the best matches of a step, and what its audit says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import pandas as pd
import scipy.stats

from universal_neurons.correlate.audit import Screening
from universal_neurons.store.columns.score import SCREENING

# Of the bound of the certificates' error rate.
LEVEL = 0.95


def screening_table(screenings: Mapping[tuple[str, str], Screening], step: int) -> pd.DataFrame:
    """What is known of the screening of every pair of seeds, both ways.

    Parameters
    ----------
    screenings
        By (seed, other seed), see `matches.StepMatches`.
    step
        The step they belong to.

    Returns
    -------
    DataFrame
        `columns.score.SCREENING`; no rows in the exact mode.
    """
    rows = [
        {"step": step, "seed": seed, "other_seed": other, **asdict(found)}
        | {"wrong_upper": upper_bound(found.wrong, found.audited)}
        for (seed, other), found in screenings.items()
    ]
    return pd.DataFrame(rows, columns=SCREENING.names)


def upper_bound(wrong: int, audited: int) -> float | None:
    """Upper confidence bound of an error rate (Clopper and Pearson, one-sided); None of nothing."""
    if not audited:
        return None
    if wrong == audited:
        return 1.0
    return float(scipy.stats.beta.ppf(LEVEL, wrong + 1, audited - wrong))
