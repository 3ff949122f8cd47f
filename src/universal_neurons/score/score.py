"""The scores of one step: every table that follows from the best matches of its pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import pandas as pd

from universal_neurons.activations.moments import effective_tokens
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.score import notions, nulls
from universal_neurons.score.criterion import Criterion
from universal_neurons.score.given import with_given, with_given_matches
from universal_neurons.score.kinds import fractions_of_kinds
from universal_neurons.score.local_fdr import with_local_fdr
from universal_neurons.score.screening import screening_table
from universal_neurons.score.similarity import (
    read_similarities,
    regression_r2,
    similarity_table,
)
from universal_neurons.score.token_budget import budget_table, sampled_thresholds
from universal_neurons.score.universality import (
    matches_table,
    mean_over_others,
    universality_table,
    with_choices,
)
from universal_neurons.store.arrays import read_by_pair
from universal_neurons.store.same_run import check_same_run
from universal_neurons.store.tables import read_table


class Further(TypedDict, total=False):
    """Stores at a step of what a run may leave out.

    Attributes
    ----------
    given
        Those of `given.write_given`, of all seeds; there are none without activations.
    similarity
        Those of `similar_pair.compare_pair`, of all pairs.
    random_directions
        That of `random_directions.random_step`.
    """

    given: Sequence[str | Path]

    similarity: Sequence[str | Path]
    random_directions: str | Path | None


def score_step(
    step: int,
    parts: Sequence[str | Path],
    *,
    moments: Sequence[str | Path],
    criterion: Criterion,
    influence: str | Path | None = None,
    permuted: Sequence[str | Path] = (),
    untrained: str | Path | None = None,
    **more: Unpack[Further],
) -> dict[str, pd.DataFrame]:
    """Score the neurons of one step.

    Parameters
    ----------
    step
        The step.
    parts
        Stores of all pairs, see `matches.StepMatches.read`.
    moments
        Stores of all shards of the models, see `activations.moments`.
    criterion
        When a neuron is universal.
    influence, permuted
        Store of `influence.influence_of_step`, and those of `permuted.permuted_pair` of all pairs;
        there are none without activations.
    untrained
        Scores of untrained models; there are none at step 0.
    more
        See `Further`.

    Returns
    -------
    dict
        The tables ``matches, universality, fractions, groups, nulls, token_budget, screening,
        similarity``.

    Raises
    ------
    UserError
        If the stores are not of one run.
    """
    given, similarity = more.get("given", ()), more.get("similarity", ())
    random_directions = more.get("random_directions")
    single = [store for store in (influence, random_directions) if store]
    check_same_run([*parts, *moments, *permuted, *given, *similarity, *single])
    step_matches = StepMatches.read(parts)
    influences, within = (
        read_by_pair([influence] if influence else [], name) for name in ("pair", "given")
    )
    means = mean_over_others(influences)
    matches = matches_table(step_matches, step, influences)
    tokens = effective_tokens(moments)
    scores = with_choices(universality_table(matches, means), step_matches.found)
    scores = nulls.with_strata(scores, tokens)
    unrelated = StepMatches.read(permuted)
    chance = {"rotated": nulls.rotated_null(step_matches.found, scores)}
    chance |= _measured(scores, unrelated, untrained, random_directions)
    against = {name: chance[name] for name in nulls.leading(chance)}
    scores = nulls.with_p_values(scores, against)
    scores = criterion.judge(with_local_fdr(scores), against, tokens)
    beyond = criterion.beyond(scores, against) if random_directions else None
    scores = with_given(scores, step_matches.given, given)
    matches, scores, groups = notions.add_notions(
        matches, scores, step_matches.found, unrelated.found
    )
    matches = with_given_matches(matches, step_matches)
    layers = read_similarities(similarity)
    scores = scores.assign(regression_r2=regression_r2(layers, len(scores)))
    thresholds = sampled_thresholds(scores)
    return {
        "matches": matches,
        "universality": scores,
        "fractions": fractions_of_kinds(scores, matches, influences, within, beyond),
        "groups": groups,
        "nulls": nulls.histograms(chance, step),
        "token_budget": budget_table(step_matches.budgets, step, thresholds),
        "screening": screening_table(step_matches.screenings, step),
        "similarity": similarity_table(layers, step),
    }


def _measured(
    scores: pd.DataFrame,
    unrelated: StepMatches,
    untrained: str | Path | None,
    random_directions: str | Path | None,
) -> dict[str, pd.DataFrame]:
    """The nulls that were measured, by name, as `nulls.p_values` takes them."""
    found = {}
    if unrelated.found:
        noise = universality_table(matches_table(unrelated, int(scores["step"].iloc[0])))
        found["permuted"] = nulls.permuted_null(noise, scores)
    if untrained:
        found["untrained"] = nulls.untrained_null(read_table(untrained))
    if random_directions:
        found[nulls.LEADING] = nulls.random_null(read_by_pair([random_directions]), scores)
    return found
