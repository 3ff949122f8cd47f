"""What a run found: its result tables, and their summaries, each computed once.

Sentences, tables and figures all take the same object, so that none can disagree with another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from universal_neurons.report import contrasts, functions, lasting, response, summaries
from universal_neurons.report.baseline import baseline_by_layer
from universal_neurons.report.results import Tables
from universal_neurons.score.criterion import Criterion
from universal_neurons.store.columns.declare import ALL_LAYERS

# Of 2401.12181: GPT-2 Small after 400,000 steps.
PAPER_THRESHOLD = 0.5

# What makes a comparison of universal neurons with their controls, beside the seed.
ABLATED = ["step", "layer", "kind"]


@dataclass(frozen=True, eq=False)
class Findings:
    """The tables of a run and what follows from them, computed when it is first asked for.

    Attributes
    ----------
    tables
        As `results.read_tables` returns them. A summary needs its own tables only.
    criterion
        When a neuron is universal.
    """

    tables: Tables
    criterion: Criterion

    @cached_property
    def last_scores(self) -> pd.DataFrame:
        """The rows of `universality` at its last step."""
        universality = self.tables["universality"]
        return universality[universality["step"] == universality["step"].max()]

    @cached_property
    def thresholds(self) -> tuple[float, float]:
        """Smallest and largest threshold at the last step that some excess could pass."""
        known = self.last_scores["threshold"]
        known = known[np.isfinite(known)]
        return (known.min(), known.max()) if len(known) else (np.nan, np.nan)

    @cached_property
    def baseline(self) -> pd.DataFrame:
        """See `baseline.baseline_by_layer`, at the last step."""
        neurons = self.tables["neurons"]
        last = neurons["step"] == self.last_scores["step"].max()
        return baseline_by_layer(self.last_scores, neurons[last])

    @cached_property
    def suggestion(self) -> summaries.Suggestion | None:
        """See `summaries.suggested_threshold`."""
        nulls = self.tables["nulls"]
        rate = self.criterion.false_discovery_rate
        return summaries.suggested_threshold(self.last_scores, nulls, rate)

    @cached_property
    def last_effects(self) -> pd.DataFrame:
        """The rows of `effects` at its last step."""
        effects = self.tables["effects"]
        return effects[effects["step"] == effects["step"].max()]

    @cached_property
    def counts(self) -> pd.DataFrame:
        """See `summaries.universal_counts`."""
        return summaries.universal_counts(self.tables["universality"])

    @cached_property
    def pooled(self) -> pd.DataFrame:
        """See `summaries.pooled_counts`."""
        return summaries.pooled_counts(self.counts)

    @cached_property
    def overall(self) -> pd.DataFrame:
        """The pooled counts of all layers together, by step."""
        whole = self.pooled[self.pooled["layer"] == ALL_LAYERS]
        return whole.set_index("step").sort_index()

    @cached_property
    def past_token(self) -> pd.Series:
        """How many neurons are universal given the token, by step; NaN where it is not known."""
        scores = self.tables["universality"]
        known = scores["excess_given_token"].notna()
        above = (scores["excess_given_token"] > scores["threshold"]).astype(float).where(known)
        return above.groupby(scores["step"]).sum(min_count=1)

    @cached_property
    def given_token_over(self) -> str:
        """What intervals of the shares given the token are over.

        Single seeds have one where it is known what tokens do.
        """
        fractions = self.tables["fractions"]
        single = fractions[(fractions["seed"] != "") & fractions["given_token_low"].notna()]
        return "over seeds" if single.empty else "over tokens and seeds"

    @cached_property
    def function_counts(self) -> pd.DataFrame:
        """See `functions.function_counts`."""
        return functions.function_counts(self.tables)

    @cached_property
    def odds_ratios(self) -> pd.DataFrame:
        """See `functions.odds_ratios`, at the last step."""
        counts = self.function_counts
        return functions.odds_ratios(counts[counts["step"] == counts["step"].max()])

    @cached_property
    def function_shares(self) -> pd.DataFrame:
        """See `functions.function_shares`."""
        return functions.function_shares(self.function_counts)

    @cached_property
    def budget(self) -> pd.DataFrame:
        """See `summaries.budget_over_seeds`."""
        return summaries.budget_over_seeds(self.tables["token_budget"])

    @cached_property
    def persistence(self) -> pd.DataFrame:
        """See `lasting.persistence_over_seeds`."""
        return lasting.persistence_over_seeds(self.tables["persistence"])

    @cached_property
    def overlaps(self) -> pd.DataFrame:
        """The persistence of all layers together."""
        table = self.tables["persistence"]
        # Of their own rows: among those of other layers pandas adds up a group to another last bit.
        return lasting.persistence_over_seeds(table[table["layer"] == ALL_LAYERS])

    @cached_property
    def moves(self) -> pd.DataFrame:
        """See `lasting.moves`."""
        return lasting.moves(self.tables["trajectories"])

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """See `contrasts.contrasts`, of universal neurons; keys step, layer, kind."""
        return contrasts.contrasts(self.tables["ablation"], ABLATED, "universal")

    @cached_property
    def ablation(self) -> pd.DataFrame:
        """See `contrasts.over_seeds`."""
        return contrasts.over_seeds(self.contrasts, ABLATED)

    @cached_property
    def doses(self) -> pd.DataFrame:
        """The same of the top of all neurons, by dose, at the last step."""
        top = contrasts.contrasts(self.last_doses, ["dose"], "top")
        return contrasts.over_seeds(top, ["dose"])

    @cached_property
    def last_doses(self) -> pd.DataFrame:
        """The rows of `doses` at its last step."""
        doses = self.tables["doses"]
        return doses[doses["step"] == doses["step"].max()]

    @cached_property
    def equal_energy(self) -> pd.DataFrame:
        """See `response.ratio_over_seeds`: of named sets, then of every dose (`dose`)."""
        # A share of its own in every seed.
        sets = [
            (name, response.at_equal_energy(self.last_doses, name).assign(dose=np.nan))
            for name in response.NAMED
        ]
        sets.append(("top", response.at_equal_energy(self.last_doses, "top")))
        found = [
            {"neuron_set": name, "dose": dose, **response.ratio_over_seeds(rows)}
            for name, table in sets
            for dose, rows in table.groupby("dose", dropna=False)
        ]
        return pd.DataFrame(found, columns=["neuron_set", "dose", *response.RATIO])
