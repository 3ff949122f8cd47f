"""How the screened mode found the best matches of a step, and what its audit says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import pandas as pd

from universal_neurons.correlate.audit import Screening
from universal_neurons.store.columns.score import SCREENING


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
        | {"wrong_upper": found.wrong_upper}
        for (seed, other), found in screenings.items()
    ]
    return pd.DataFrame(rows, columns=SCREENING.names)
