"""What the report says of matches that rest on a sample: the mode, its audit, what is estimated."""

from __future__ import annotations

import pandas as pd

from universal_neurons.report.words import out_of, percent, plural
from universal_neurons.score.screening import upper_bound
from universal_neurons.store.columns.score import LEAST_SAMPLE


def screening_warnings(screening: pd.DataFrame) -> list[str]:
    """What makes the results of the screened mode wrong; nothing in the exact mode."""
    found = []
    sampled = screening["sampled_tokens"].min()
    if screening["baseline_error"].notna().any() and sampled < LEAST_SAMPLE:
        found.append(
            f"Best matches were screened on {int(sampled):,} tokens. Below {LEAST_SAMPLE:,} the "
            "baselines estimated from the sample can change the number of universal neurons by "
            "more than 2\u00a0% (docs/method.md): raise correlate.sample, or use correlate.mode: "
            "exact."
        )
    if wrong := int(screening["wrong"].sum()):
        audited = int(screening["audited"].sum())
        found.append(
            f"{out_of(wrong, audited)} audited certificates were wrong. Those matches were mended; "
            "among the neurons that were not audited wrong ones remain: raise correlate.sample or "
            "correlate.candidates, or use correlate.mode: exact."
        )
    return found


def screening_remarks(screening: pd.DataFrame) -> list[str]:
    """How the screened mode found the best matches, and how well; nothing in the exact mode."""
    if screening.empty:
        return []
    total = screening[["rare", "undecided", "certified", "audited", "wrong"]].sum()
    live = int(total[["rare", "undecided", "certified"]].sum())
    left = int(total["certified"] - total["audited"])
    tokens, sampled = (int(screening[name].max()) for name in ("n_tokens", "sampled_tokens"))
    text = (
        f"Best matches were screened (correlate.mode: screened): all pairs of neurons on "
        f"{sampled:,} of {tokens:,} tokens, candidates on all of them. Of {live:,} best matches "
        f"{live - left:,} rest on a comparison with all neurons on all tokens, {left:,} "
        f"({percent(left / live)}) on a certificate, which takes for granted that the sample holds "
        "tokens of every kind in which two neurons vary much."
    )
    if total["audited"]:
        wrong, audited = int(total["wrong"]), int(total["audited"])
        at_most = percent(upper_bound(wrong, audited) or 0)
        text += (
            f" To check it, {plural(audited, 'certified neuron', 'certified neurons')} chosen at "
            f"random were compared with all: {wrong:,} had a better match, so that at most "
            f"{at_most} of the certificates are wrong, with 95\u00a0% confidence."
        )
    known = screening.dropna(subset="baseline_error")
    if known.empty:
        return [f"{text} All baselines are of all tokens."]
    error = (known["baseline_error"] ** 2).mean() ** 0.5
    return [
        f"{text} The baselines of the certified neurons are estimates: the sample's, which over "
        f"the audited neurons was {-known['baseline_shift'].mean():+.3f} off on average, corrected "
        f"by them; a root mean square error of {error:.2g} is left and is part of baseline_se and "
        "excess_se. All other baselines are of all tokens."
    ]
