"""The run's main numbers in sentences.

Every sentence follows from the result tables; where they show nothing, the sentence says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from universal_neurons.report.ablation import on_interventions
from universal_neurons.report.findings import PAPER_THRESHOLD, Findings
from universal_neurons.report.functions import on_functions, on_mediation
from universal_neurons.report.opening import opening
from universal_neurons.report.persistence import on_courses, on_persistence
from universal_neurons.report.similarity import on_similarity
from universal_neurons.report.words import (
    beaten,
    count_seeds,
    criterion_met,
    extremes,
    number,
    out_of,
    percent,
    plural,
    pooled_over,
)
from universal_neurons.score.fractions import LEAST_SEEDS
from universal_neurons.score.nulls import LEADING
from universal_neurons.score.token_budget import ENOUGH
from universal_neurons.store.columns.declare import ALL_LAYERS


@dataclass(frozen=True)
class Headline:
    """A paragraph of the results: what it is about, and the sentences."""

    topic: str
    text: str


def headlines(findings: Findings, config: Mapping[str, Any]) -> list[Headline]:
    """The run's main numbers in plain sentences, computed from its tables.

    Parameters
    ----------
    findings
        Of all tables of `results.COLUMNS`.
    config
        The run's; ``capture.store``, if given, says why something is not known.
    """
    stored = bool(config.get("capture", {}).get("store", True))
    texts = {
        "In short": opening(findings),
        "Universal neurons": _on_emergence(findings, stored),
        "Against the nulls": _on_nulls(findings, stored),
        "Token noise": _on_budget(findings),
        "Groups": _on_groups(findings),
        "Roles and families": _on_functions(findings),
        "Neuron or subspace": on_similarity(findings),
        "Persistence": on_persistence(findings, config),
        "Courses of neurons": on_courses(findings),
        **on_interventions(findings),
        "Held-out loss": _on_loss(findings),
    }
    return [Headline(topic, text) for topic, text in texts.items()]


def _on_functions(findings: Findings) -> str:
    common = on_functions(findings.odds_ratios, findings.last_scores)
    return f"{common} {on_mediation(findings.tables['mediation'])}".strip()


def _on_emergence(findings: Findings, stored: bool) -> str:
    overall = findings.overall
    last, first = overall.index[-1], overall.index[0]
    now = overall.loc[last]
    sentences = []
    if now["n_universal"]:
        sentences.append(
            f"At the last step ({last:,}), {percent(now['fraction'])} of neurons "
            f"({out_of(now['n_universal'], now['n_neurons'])}, "
            f"{pooled_over(int(now['n_seeds']), now['lowest'], now['highest'])}) "
            f"{criterion_met(findings.criterion, many=True)}."
        )
    else:
        highest = findings.last_scores["excess_corr"].max()
        sentences.append(
            f"At the last step ({last:,}), no universal neuron was found: none of "
            f"{int(now['n_neurons']):,} neurons (pooled over {count_seeds(int(now['n_seeds']))}) "
            f"{criterion_met(findings.criterion)}; the highest excess correlation is "
            f"{number(highest, 3)}."
        )
        sentences.append(_suggestion(findings))
    sentences.append(_past_token(findings))
    sentences.append(_interval_of(findings.tables["fractions"], stored))
    if first != last:
        then = overall.loc[first]
        sentences.append(
            f"At the first step ({first:,}) it was {percent(then['fraction'])} "
            f"({out_of(then['n_universal'], then['n_neurons'])})."
        )
    most = overall.iloc[int(overall["fraction"].to_numpy().argmax())]
    peak = most.name
    if peak not in (first, last):
        sentences.append(
            f"The share was highest at step {peak:,}: {percent(most['fraction'])} "
            f"({out_of(most['n_universal'], most['n_neurons'])})."
        )
    pooled = findings.pooled
    by_layer = pooled[(pooled["layer"] != ALL_LAYERS) & (pooled["step"] == last)]
    by_layer = by_layer.set_index("layer")["fraction"]
    if len(by_layer) > 1 and now["n_universal"]:
        sentences.append(f"Of the layers at the last step, {extremes(by_layer, 'share')}.")
    means = findings.tables["universality"].groupby("step")["excess_corr"].mean()
    average = f"Whatever the threshold, the mean excess correlation is {number(means[last], 3)}"
    before = f" at the last step and was {number(means[first], 3)} at the first"
    sentences.append(average + (before if first != last else "") + ".")
    return " ".join(filter(None, sentences))


def _suggestion(findings: Findings) -> str:
    """What to set so that there is something to follow, where the nulls say that there is."""
    suggested = findings.suggestion
    if suggested is None or findings.criterion.kind != "excess":
        return ""
    passing = findings.last_scores["q_value"] < findings.criterion.false_discovery_rate
    instead = ", or universality.criterion: q_value" if passing.any() else ""
    return (
        f"Still, {percent(suggested.found)} of neurons are above {suggested.threshold:g}, and by "
        f"chance at most {percent(suggested.by_chance)} would be: with "
        f"universality.excess_threshold: {suggested.threshold:g}{instead}, there are universal "
        "neurons to follow, to ablate and to hold against chance."
    )


# What is taken out of both models besides the token, where `correlate.given` names it.
_OTHERS = {"previous_token": "the token before", "position": "the position"}


def _past_token(findings: Findings) -> str:
    """How many of them share more than what the token says, or another class of tokens."""
    scores = findings.last_scores
    universal = scores[scores["universal"]]
    sentences = []
    if not (universal.empty or scores["excess_given_token"].isna().all()):
        sentences.append(
            f"The token itself explains a median {percent(universal['token_r2'].median())} of the "
            f"variance of a universal neuron; {_left(universal, 'token')} stay above the threshold "
            "once the mean of every token's identity is taken out of both models."
        )
    for kind, name in _OTHERS.items():
        if not (universal.empty or scores[f"excess_given_{kind}"].isna().all()):
            explained = percent(universal[f"{kind}_r2"].median())
            sentences.append(
                f"Given {name} alone, which explains a median {explained}, "
                f"{_left(universal, kind)} stay above it."
            )
    return " ".join(sentences)


def _left(universal: pd.DataFrame, kind: str) -> str:
    left = int((universal[f"excess_given_{kind}"] > universal["threshold"]).sum())
    return out_of(left, len(universal))


def _interval_of(fractions: pd.DataFrame, stored: bool) -> str:
    mean = fractions[(fractions["seed"] == "") & (fractions["layer"] == ALL_LAYERS)]
    mean = mean.sort_values("step")
    now, then = mean.iloc[-1], mean.iloc[0]
    if np.isnan(now["se"]):
        if fractions.loc[fractions["seed"] != "", "seed"].nunique() < LEAST_SEEDS:
            return (
                "The mean over seeds has no interval for the choice of seeds: that takes "
                f"{LEAST_SEEDS} seeds or more."
            )
        needed = "more sequences (corpus.tokens)" if stored else "activations (capture.store)"
        return f"Its standard error is not known: that takes {needed}."
    said = (
        f"The mean over seeds has a 95 % interval of {percent(now['low'])} to "
        f"{percent(now['high'])}, for the choice of tokens and of seeds"
    )
    if len(mean) > 1:
        apart = now["low"] > then["high"] or now["high"] < then["low"]
        if apart:
            said += "; it does not overlap that of the first step"
        else:
            said += "; it overlaps that of the first step: the two are not clearly distinguishable"
    return said + "."


def _on_nulls(findings: Findings, stored: bool) -> str:
    now, nulls = findings.last_scores, findings.tables["nulls"]
    last = now["step"].max()
    if now["q_value"].isna().all():
        other = "more sequences (corpus.tokens)" if stored else "activations (capture.store)"
        return (
            "No p-values: at step 0 a null takes two rotations at least (baseline.draws) or "
            f"{other}."
        )
    named, leads = beaten(nulls), LEADING in set(nulls.loc[nulls["step"] == last, "null"])
    least = findings.criterion.false_discovery_rate
    n, passing = len(now), int((now["q_value"] < least).sum())
    above = int((now["excess_corr"] > PAPER_THRESHOLD).sum())
    rate = f"at a false discovery rate of {100 * least:g}\u00a0% (q < {least:g})"
    if passing:
        lowest = now.loc[now["q_value"] < least, "excess_corr"].min()
        draws = ", and other draws or another choice of directions give another number"
        alike = "that read one token well" if leads else "that follow the same frequent tokens"
        text = (
            f"At the last step ({last:,}), {out_of(passing, n)} neurons ({percent(passing / n)}) "
            f"{'are beyond' if leads else 'match better than'} {named}, {rate}. Nothing else is "
            f"ruled out: neurons {alike} match so too"
            f"{draws if leads else ''}. "
            f"The smallest excess correlation among them is {number(lowest, 2)}; "
        )
    else:
        text = (
            f"At the last step ({last:,}), none of {n:,} neurons "
            f"{'is beyond' if leads else 'matches better than'} {named}, {rate}; "
        )
    return text + f"{out_of(above, n)} exceed the papers' {PAPER_THRESHOLD:g}."


def _on_budget(findings: Findings) -> str:
    """Whether noise of the tokens is small: half of them say the same, and two halves agree."""
    if findings.tables["token_budget"].empty:
        return (
            "There are no scores of fewer tokens to compare: they take two shards or more "
            "(corpus.shards) and correlations of all pairs (correlate.mode: exact)."
        )
    summary = findings.budget
    last = summary[summary["step"] == summary["step"].max()].set_index("part")
    half, everything = last.loc[["first"]].iloc[-1], last.loc["all"]
    reliability = last.loc["second half", "reliability"]
    text = (
        f"Of {int(everything['n_neurons']):,} sampled neurons (of "
        f"{count_seeds(int(everything['n_seeds']))}) at the last step, "
        f"{int(everything['n_universal']):,} are universal with all "
        f"{int(everything['n_tokens']):,} tokens. With the first {int(half['n_tokens']):,} of them "
    )
    if pd.isna(half["jaccard"]):
        text += "none is either, so there are no sets to compare"
    else:
        text += f"the universal set has a Jaccard index of {half['jaccard']:.2f} with that of all"
    if pd.isna(reliability):
        return (
            f"{text}. The excess correlations do not vary, so there is no reliability, and whether "
            "token noise is small cannot be said."
        )
    text += (
        f", excess correlations have a rank correlation of {number(half['rank_corr'], 2)}, and "
        f"the agreement of two halves gives all tokens a reliability of {number(reliability, 2)}"
    )
    if not half["jaccard"] < ENOUGH and reliability >= ENOUGH:
        text += ": token noise is small."
    else:
        text += (
            f": token noise is not small (both should be {ENOUGH:g} or more), more tokens could "
            "change which neurons are universal."
        )
    return f"{text} Other seeds or rotations, which all parts share, could change it all the same."


def _on_groups(findings: Findings) -> str:
    """Neurons that every seed has, without a threshold, and how well matches foretell a seed."""
    last = findings.last_scores
    n_seeds, members = last["seed"].nunique(), last[last["in_group"]]
    n_groups = len(members) // n_seeds
    noise = last["n_mutual_permuted"]
    if n_seeds == 2:
        known = f"; {int(noise.sum()) // 2:,} are in one sample in which they read other sequences"
        text = (
            f"At the last step {n_groups:,} pairs of neurons are each other's best match"
            f"{'' if noise.isna().any() else known}. Two seeds are too few to speak of groups."
        )
    elif n_groups == 0:
        text = "At the last step no neurons are each other's best match in all seeds."
    else:
        universal = int(members["universal"].sum())
        groups = findings.tables["groups"]
        by_noise = groups.loc[groups["step"] == last["step"].max(), "n_permuted"].iloc[0]
        known = (
            f", against {by_noise:,.0f} in one sample in which every model reads other sequences"
        )
        text = (
            f"At the last step {plural(n_groups, 'group', 'groups')} of {n_seeds} neurons, one of "
            f"each seed, {'is' if n_groups == 1 else 'are'} each other's best match throughout "
            f"(groups.parquet){'' if pd.isna(by_noise) else known}; "
            f"{out_of(universal, len(members))} of these neurons are universal."
        )
    cases = last["leave_one_out_cases"]
    if cases.sum():
        # Every case alike: by neurons, one with a single case would weigh as much as others.
        share = (last["leave_one_out"].fillna(0) * cases).sum() / cases.sum()
        text += (
            f" A neuron called universal by the other seeds has a match in a seed left out in "
            f"{percent(share)} of the {int(cases.sum()):,} cases."
        )
    return text


def _on_loss(findings: Findings) -> str:
    models = findings.tables["models"]
    loss = models.dropna(subset=["heldout_loss"]).groupby("step")["heldout_loss"]
    if not loss.ngroups:
        return "The held-out loss was not measured."
    mean, lowest, highest, seeds = loss.mean(), loss.min(), loss.max(), loss.size()
    first, last = mean.index.min(), mean.index.max()
    masked = (models["loss_kind"] == "masked").any()
    what = "held-out loss at masked tokens" if masked else "held-out loss"
    single = f"{lowest[last]:.3f} to {highest[last]:.3f} in single seeds"
    if first == last:
        return (
            f"At step {last:,} the {what} is {mean[last]:.3f} nats per token "
            f"(mean over {count_seeds(seeds[last])}; {single})."
        )
    verb = "falls" if mean[last] < mean[first] else "does not fall: it goes"
    return (
        f"The {what} {verb} from {mean[first]:.3f} nats per token at step {first:,} to "
        f"{mean[last]:.3f} at step {last:,} (mean over {count_seeds(seeds[last])}; at the last "
        f"step {single})."
    )
