"""The neurons of largest excess correlation, and which of them are one neuron in several seeds."""

from __future__ import annotations

import pandas as pd

from universal_neurons.report.words import ShortTable, named_neuron, number

# Neurons that the report lists.
TOP = 20

NEURON = ["seed", "layer", "neuron"]


def top_neurons(scores: pd.DataFrame, matches: pd.DataFrame, n: int = TOP) -> pd.DataFrame:
    """The neurons of all seeds with the largest excess correlation at a step.

    Parameters
    ----------
    scores
        The step's ``seed, layer, neuron, excess_corr`` and others.
    matches
        The step's ``seed, other_seed, layer, neuron, best_layer, best_neuron, mutual``.
    n
        How many.

    Returns
    -------
    DataFrame
        Rows of `scores`, the largest first, with ``same_as``: the place in the list, from 1, of the
        first neuron that it is the same as, by mutual best matches among those listed; else 0.
    """
    top = scores.nlargest(n, "excess_corr")
    mutual = matches[matches["mutual"]].merge(top[NEURON], on=NEURON)
    others = mutual.groupby(NEURON, observed=True)[["other_seed", "best_layer", "best_neuron"]]
    partners = {key: list(rows.itertuples(index=False, name=None)) for key, rows in others}
    first: dict[tuple, int] = {}
    same_as = []
    for place, key in enumerate(top[NEURON].itertuples(index=False, name=None), start=1):
        known = [first[partner] for partner in partners.get(key, ()) if partner in first]
        first[key] = min(known, default=place)
        same_as.append(min(known, default=0))
    return top.assign(same_as=same_as)


def top_table(scores: pd.DataFrame, matches: pd.DataFrame, models: pd.DataFrame) -> ShortTable:
    """The list of the report; `models` are those of all steps, see `columns.describe.MODELS`."""
    last = scores["step"].max()
    own, matches = models[models["step"] == last], matches[matches["step"] == last]
    top = top_neurons(scores, matches)
    copies = set(own.loc[own["sha256"].duplicated(), "seed"])
    found = dict(iter(matches.merge(top[NEURON], on=NEURON).groupby(NEURON, observed=True)))
    rows = []
    for place, row in enumerate(top.to_dict("records"), start=1):
        mine = found[row["seed"], row["layer"], row["neuron"]].set_index("other_seed")
        error = "" if pd.isna(row["excess_se"]) else f" ± {row['excess_se']:.2g}"
        same = [f"no. {row['same_as']}"] if row["same_as"] else []
        same += ["copied model"] if row["seed"] in copies else []
        rows.append(
            {
                "no.": f"{place}",
                "seed": str(row["seed"]),
                "neuron": named_neuron(row["layer"], row["neuron"]),
                "excess": number(row["excess_corr"], 2) + error,
                "q": "–" if pd.isna(row["q_value"]) else f"{row['q_value']:.2g}",
                "same as": ", ".join(same) or "–",
            }
            | {
                f"in seed {seed}": "–"
                if seed not in mine.index or mine.loc[seed, "best_layer"] < 0
                else f"{named_neuron(*mine.loc[seed, ['best_layer', 'best_neuron']])} "
                f"({number(mine.loc[seed, 'best_corr'], 2)})"
                for seed in own["seed"]
            }
        )
    return ShortTable(
        "Top neurons",
        f"The {len(rows)} neurons with the largest excess correlation at the last step (L1N10: "
        "layer 1, neuron 10), with standard error, q-value, and the best match in every other seed "
        "with its correlation. One that is the mutual best match of another one further up is the "
        "same neuron in another seed; a copied model has the weights of another seed's.",
        rows,
        frozenset({"seed", "neuron", "same as"}),
    )
