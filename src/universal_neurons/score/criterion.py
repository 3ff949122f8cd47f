"""When a neuron is universal: by its excess correlation, or by how rarely chance reaches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from universal_neurons.score.nulls import excess_thresholds

# A neuron whose variance is in fewer tokens in effect (`moments.moments`) is not called universal:
# its matches are those of a handful of tokens.
LEAST_EFFECTIVE = 10


@dataclass(frozen=True)
class Criterion:
    """The section ``universality`` of the configuration.

    Attributes
    ----------
    kind
        ``excess``: the excess correlation is above `excess_threshold`. ``q_value``: the q-value is
        below `false_discovery_rate`, and the excess correlation positive.
    excess_threshold, false_discovery_rate
        See there.
    """

    kind: str
    excess_threshold: float
    false_discovery_rate: float

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Criterion:
        """The criterion of a resolved configuration's section."""
        return cls(
            section["criterion"], section["excess_threshold"], section["false_discovery_rate"]
        )

    def judge(
        self,
        scores: pd.DataFrame,
        nulls: Mapping[str, pd.DataFrame],
        effective_tokens: ArrayLike,
    ) -> pd.DataFrame:
        """Say which neurons of a step are universal.

        Either criterion comes down to a threshold of excess correlation that all neurons of a seed,
        layer and stratum share, so that all that follows, other notions and bootstraps among it,
        can ask whether an excess is above it. It is infinite for neurons of few tokens
        (`LEAST_EFFECTIVE`).

        Parameters
        ----------
        scores
            One step's, see `nulls.with_p_values`.
        nulls
            Those that the p-values are of.
        effective_tokens
            Of the neurons of `scores`, see `moments.moments`.

        Returns
        -------
        DataFrame
            `scores` with ``threshold`` and ``universal``.
        """
        if self.kind == "excess":
            threshold = np.full(len(scores), float(self.excess_threshold))
        else:
            threshold = excess_thresholds(scores, nulls, self.false_discovery_rate)
        threshold = np.where(np.asarray(effective_tokens) < LEAST_EFFECTIVE, np.inf, threshold)
        universal = scores["excess_corr"].to_numpy() > threshold
        return scores.assign(threshold=threshold, universal=universal)

    def beyond(
        self, scores: pd.DataFrame, nulls: Mapping[str, pd.DataFrame]
    ) -> NDArray[np.float64]:
        """Excess above which a q-value is below `false_discovery_rate`, whatever the criterion.

        Parameters
        ----------
        scores, nulls
            As `judge` takes them; `scores` may have been judged already.

        Returns
        -------
        ndarray
            Shape (rows of `scores`,).
        """
        return excess_thresholds(scores, nulls, self.false_discovery_rate)
