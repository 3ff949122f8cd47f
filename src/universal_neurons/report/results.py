"""What the report reads of a run: its result tables and the time its jobs took."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from universal_neurons.errors import UserError
from universal_neurons.store.files import reading
from universal_neurons.store.tables import read_table

Tables = Mapping[str, pd.DataFrame]

# Of a set and its controls.
CONTRAST = (
    *("difference", "difference_se", "adjusted_difference", "adjusted_difference_se"),
    *("energy_ratio", "overlap", "comparable"),
)

# The columns used here, by table: the others of a large run are not read.
COLUMNS = {
    "matches": [
        *("step", "seed", "other_seed", "layer", "neuron"),
        *("best_corr", "best_layer", "best_neuron", "mutual"),
    ],
    "universality": [
        *("step", "seed", "layer", "neuron", "excess_corr", "excess_se"),
        *("first_rotation_excess", "other_choice_excess", "threshold", "universal", "q_value"),
        *("assigned_universal", "n_matched", "n_mutual", "n_mutual_permuted", "in_group"),
        *("leave_one_out", "leave_one_out_cases", "max_corr", "regression_r2"),
        *("token_r2", "previous_token_r2", "position_r2", "excess_given_token"),
        *("excess_given_previous_token", "excess_given_position"),
    ],
    "groups": [
        *("step", "group", "seed", "layer", "neuron", "excess_corr"),
        *("group_mean_corr", "group_min_corr", "n_permuted"),
    ],
    "nulls": ["step", "null", "low", "high", "n"],
    "fractions": [
        *("step", "seed", "layer", "n_neurons", "mean_fraction", "se", "low", "high"),
        *("new_seed", "new_seed_low", "new_seed_high", "expected_beyond_random"),
        *("beyond_random", "beyond_random_low", "beyond_random_high"),
        *("beyond_random_new_seed", "beyond_random_new_seed_low", "beyond_random_new_seed_high"),
        *("given_token", "given_token_low", "given_token_high"),
        *("given_token_new_seed", "given_token_new_seed_low", "given_token_new_seed_high"),
    ],
    "persistence": [
        *("seed", "layer", "from_step", "to_step", "n_from", "n_to", "n_both"),
        *("persistence", "jaccard", "ceiling", "chance", "p_value", "odds_ratio", "q_value"),
        *("matched_chance", "matched_p_value"),
    ],
    "ablation": [
        *("step", "seed", "layer", "kind", "neuron_set", "draw", "n_neurons"),
        *("clean_loss", "clean_loss_later", "delta_loss", "delta_loss_se", "delta_loss_later"),
        *("direct_delta_loss", "energy", "energy_later", *CONTRAST),
    ],
    "neurons": [
        *("step", "seed", "layer", "neuron", "dead", "escapes", "rounding_se"),
        *("effective_tokens", "std", "first_position_share"),
    ],
    "trajectories": [
        *("seed", "layer", "neuron", "step", "universal", "label", "emergence_step"),
        *("next_layer", "next_neuron", "self_corr"),
    ],
    "doses": [
        *("step", "seed", "dose", "neuron_set", "draw", "n_neurons"),
        *("delta_loss", "delta_loss_se", "delta_loss_later", "energy", *CONTRAST),
    ],
    "effects": [
        *("step", "seed", "layer", "excess_corr", "attributed_delta_loss"),
        *("perturbation", "sparsity", "delta_loss", "sampled"),
    ],
    "mediation": ["step", "seed", "role", "delta_loss", "through_norm", "through_frequency"],
    "token_budget": [
        *("step", "seed", "part", "n_shards", "n_tokens", "n_neurons", "n_universal"),
        *("jaccard", "rank_corr", "reliability"),
    ],
    "screening": [
        *("step", "seed", "other_seed", "n_tokens", "sampled_tokens", "rare", "undecided"),
        *("certified", "audited", "wrong", "baseline_shift", "baseline_error"),
    ],
    "similarity": [
        *("step", "seed", "other_seed", "layer", "other_layer"),
        *("cka", "pwcca", "procrustes", "soft_matching"),
    ],
    "roles": ["step", "seed", "layer", "neuron", "role"],
    "families": ["step", "seed", "layer", "neuron", "family"],
    "models": [
        *("seed", "step", "source", "revision", "sha256", "duplicate_of"),
        *("loss_kind", "heldout_loss", "heldout_loss_later"),
    ],
}

# Of one step, of one shard, of seeds that share nothing, with one rotation of untrained models, in
# the exact mode, in the screened mode, and without ablation or such neurons; any other empty table
# is a mistake.
MAY_BE_EMPTY = (
    *("persistence", "token_budget", "groups", "nulls", "screening"),
    "similarity",
    *("ablation", "doses", "effects", "mediation"),
)


def read_tables(
    results: str | Path, names: Collection[str] = tuple(COLUMNS)
) -> dict[str, pd.DataFrame]:
    """Read the result tables of a run, of `matches` and `effects` the last step only.

    Parameters
    ----------
    results
        Directory ``results/<run>`` with the tables' Parquet files.
    names
        Which tables to read, of those of `COLUMNS`.

    Returns
    -------
    dict
        Table name to the columns of `COLUMNS`.

    Raises
    ------
    UserError
        If a table or a column is missing.
    """
    tables = {}
    for name in names:
        path = Path(results) / f"{name}.parquet"
        if not path.is_file():
            raise UserError(f"{path} is missing: run the workflow up to {name}.parquet first")
        with reading(path):
            present = set(pq.read_schema(path).names)
        missing = [column for column in COLUMNS[name] if column not in present]
        if missing:
            raise UserError(f"{path} has no column {', '.join(missing)}")
        filters = None
        if name in ("matches", "effects"):
            steps = read_table(path, ["step"])["step"]
            filters = [("step", "==", steps.max())] if len(steps) else None
        tables[name] = read_table(path, COLUMNS[name], filters)
    return tables


def check_rows(tables: Tables, names: Iterable[str], what: str) -> None:
    """Refuse tables without rows, other than those of `MAY_BE_EMPTY`.

    Parameters
    ----------
    tables
        As `read_tables` returns them.
    names
        Which of them to look at.
    what
        Needs them, and is named in the message.

    Raises
    ------
    UserError
        If a table is empty that never should be.
    """
    for name in names:
        if tables[name].empty and name not in MAY_BE_EMPTY:
            raise UserError(f"{what}: the table {name} has no rows")


def subset_preferences(results: str | Path) -> pd.DataFrame:
    """In which subset of the corpus the neurons of the last step are most active.

    Parameters
    ----------
    results
        Directory ``results/<run>`` of a run whose corpus has subsets.

    Returns
    -------
    DataFrame
        One row per subset with scored tokens, with ``subset, n_tokens`` (of one model),
        ``n_neurons`` and ``n_universal``: how many neurons, and universal ones, of all seeds have
        their largest mean activation there.
    """
    path = Path(results) / "subsets.parquet"
    keys = ["seed", "layer", "neuron"]
    last = [("step", "==", read_table(path, ["step"])["step"].max())]
    table = read_table(path, [*keys, "subset", "n_tokens", "mean", "std"], last)
    # A neuron that is the same everywhere prefers no subset.
    varying = table.groupby(keys)["mean"].transform("std") > 0
    best = table.loc[table[varying].groupby(keys)["mean"].idxmax(), [*keys, "subset"]]
    scores = read_table(Path(results) / "universality.parquet", [*keys, "universal"], last)
    best = best.merge(scores, on=keys)
    counts = best.groupby("subset")["universal"].agg(n_neurons="size", n_universal="sum")
    tokens = table.groupby("subset")["n_tokens"].first()
    return tokens[tokens > 0].to_frame().join(counts).fillna(0).astype(int).reset_index()


def read_benchmarks(folder: str | Path) -> dict[str, dict[str, float]]:
    """Add up Snakemake's benchmark files by rule.

    Parameters
    ----------
    folder
        Holds ``<rule>.tsv`` or ``<rule>/…/*.tsv``.

    Returns
    -------
    dict
        Rule to ``jobs`` (number), ``seconds`` (their sum) and ``memory_mb`` (the largest), slowest
        rule first.
    """
    folder = Path(folder)
    rules: dict[str, list[pd.DataFrame]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        rules.setdefault(rule, []).append(pd.read_csv(path, sep="\t", na_values="-"))
    totals = {rule: pd.concat(parts) for rule, parts in rules.items()}
    summed = {
        rule: {
            "jobs": float(len(table)),
            "seconds": float(table["s"].sum()),
            "memory_mb": float(table["max_rss"].max()),
        }
        for rule, table in totals.items()
    }
    return dict(sorted(summed.items(), key=lambda item: -item[1]["seconds"]))
