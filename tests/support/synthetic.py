"""Made-up result tables with the columns of the contract, for figures and report.

Not a simulation: excess correlations are drawn from a normal distribution whose mean and width grow
with the step, persistence and ablation follow from the sets of neurons so made.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from universal_neurons.persist.trajectories import trajectories
from universal_neurons.report.summaries import universal_counts
from universal_neurons.score import nulls
from universal_neurons.score.criterion import Criterion
from universal_neurons.score.screening import upper_bound

STEPS = (50, 150, 300, 600, 1000)


def tables(
    *,
    seeds: Sequence[str] = ("0", "1", "2", "3", "4"),
    steps: Sequence[int] = STEPS,
    n_layers: int = 2,
    d_mlp: int = 200,
    threshold: float = 0.3,
    universal: bool = True,
    kinds: Sequence[str] = ("mean",),
    controls: int = 20,
) -> dict[str, pd.DataFrame]:
    """All tables; with `universal` false no neuron ever passes the threshold."""
    rng = np.random.default_rng(0)
    grid = pd.MultiIndex.from_product(
        [list(steps), list(seeds), range(n_layers), range(d_mlp)],
        names=["step", "seed", "layer", "neuron"],
    ).to_frame(index=False)
    universality = _universality(grid, steps, threshold, universal, rng)
    made = {
        "matches": _matches(universality, seeds, n_layers, d_mlp, rng),
        "universality": universality,
        "fractions": _fractions(universality),
        "groups": _groups(universality),
        "nulls": _nulls(steps),
        "persistence": _persistence(universality, seeds, steps, n_layers),
        "ablation": _ablation(universality, kinds, controls, rng),
        "neurons": _neurons(grid, rng),
        "models": _models(seeds, steps, n_layers, d_mlp),
        "trajectories": _trajectories(universality, steps, rng),
        "doses": _doses(seeds, steps, n_layers * d_mlp, rng),
        "effects": _effects(universality, rng),
        "mediation": _mediation(universality),
        "token_budget": _token_budget(universality, seeds, steps),
        "screening": screening(seeds, steps).iloc[:0],
        "similarity": _similarity(seeds, steps, n_layers),
        "roles": _named(universality, "role", ["prediction", "suppression", "partition"]),
        "families": _named(universality, "family", ["unigram", "position", "previous token"]),
    }
    return {name: _in_order(table, seeds) for name, table in made.items()}


def _in_order(table, seeds):
    """Seeds as the ordered categories that result tables have."""
    labels = [*([""] if "" in set(table.get("seed", ())) else []), *seeds]
    columns = [name for name in ("seed", "other_seed") if name in table]
    return table.astype(dict.fromkeys(columns, pd.CategoricalDtype(labels, ordered=True)))


def excess_above(threshold: float) -> Criterion:
    """That of a run with a threshold."""
    return Criterion("excess", threshold, 0.05)


def write(made: dict[str, pd.DataFrame], results: Path) -> None:
    """Write the tables as a run's Parquet files."""
    results.mkdir(parents=True, exist_ok=True)
    for name, table in made.items():
        table.to_parquet(results / f"{name}.parquet", index=False)


def _universality(grid, steps, threshold, universal, rng):
    progress = grid["step"].map({s: (i + 1) / len(steps) for i, s in enumerate(steps)})
    # A neuron keeps its own inclination from step to step: universal neurons persist.
    inclination = rng.normal(size=grid.groupby("step").size().iloc[0])
    own = np.tile(inclination, len(steps))
    depth = 1 + 0.3 * grid["layer"] / max(1, grid["layer"].max())
    noise = rng.normal(size=len(grid))
    excess = progress * depth * (0.06 + 0.1 * (0.85 * own + 0.5 * noise)) + 0.01 * noise
    if not universal:
        excess = excess.clip(upper=0.9 * threshold)
    baseline = 0.15 + 0.03 * rng.random(len(grid))
    others = grid["seed"].nunique() - 1
    # Groups have one neuron of each seed: here some of the same index.
    grouped = grid["neuron"] < 4
    return grid.assign(
        max_corr=baseline + excess,
        baseline_corr=baseline,
        excess_corr=excess,
        excess_se=0.01,
        first_rotation_excess=excess + 0.01,
        other_choice_excess=excess - 0.02,
        threshold=threshold,
        universal=excess > threshold,
        p_value=np.where(excess > 0.05, 1e-4, 0.5),
        q_value=np.where(excess > 0.05, 1e-3, 0.6),
        assigned_universal=excess > 1.1 * threshold,
        n_matched=np.where(excess > threshold, others, others // 2),
        stratum=grid["neuron"] % nulls.STRATA,
        n_mutual=np.where(grouped, others, 0),
        n_mutual_permuted=np.where(grid["neuron"] == 9, others, 0.0),
        in_group=grouped,
        leave_one_out=np.where(excess > threshold, 0.75, np.nan),
        leave_one_out_cases=np.where(excess > threshold, others, 0),
        regression_r2=1 - (1 - (baseline + excess).clip(0, 1)) ** 2,
        token_r2=0.5,
        previous_token_r2=0.25,
        position_r2=0.125,
        excess_given_token=excess / 2,
        excess_given_previous_token=np.nan,
        excess_given_position=np.nan,
    )


def _fractions(universality):
    counts = universal_counts(universality)
    keys = ["step", "layer"]
    sums = counts.groupby(keys)[["n_neurons", "n_universal"]].sum()
    counts = counts.rename(columns={"fraction": "mean_fraction"})
    mean = counts.groupby(keys)["mean_fraction"].mean()
    table = pd.concat([sums.join(mean).reset_index().assign(seed=""), counts])
    table["se"] = 0.01
    low, high = ((table["mean_fraction"] + move).clip(0, 1) for move in (-0.02, 0.02))
    table = table.assign(low=low, high=high, expected_beyond_random=0.3 * table["n_neurons"])
    for kind, part in {"": 1.0, "beyond_random_": 0.8, "given_token_": 0.1}.items():
        if kind:
            share = part * table["mean_fraction"]
            table[kind.removesuffix("_")] = share
            table[f"{kind}low"], table[f"{kind}high"] = (share - 0.01).clip(0, 1), share + 0.01
        over_seeds = table["seed"] == ""
        for name, value in {"new_seed": 0.6, "new_seed_low": 0.5, "new_seed_high": 0.7}.items():
            table[kind + name] = np.where(over_seeds, value, np.nan)
    return table


def _groups(universality):
    table = universality.loc[
        universality["in_group"], ["step", "seed", "layer", "neuron", "excess_corr", "universal"]
    ]
    table.insert(1, "group", 4 * table["layer"] + table["neuron"])
    table = table.assign(
        group_mean_corr=0.9 - 0.01 * table["group"], group_min_corr=0.5, n_permuted=1.0
    )
    return table.sort_values(["step", "group", "seed"], ignore_index=True)


def _nulls(steps):
    rng = np.random.default_rng(1)
    names = ("rotated", "permuted", "untrained")
    return pd.concat(
        nulls.histograms(
            {n: pd.DataFrame({"excess": rng.normal(0, 0.02, 2000)}) for n in names}, step
        )
        for step in steps
    )


def _matches(universality, seeds, n_layers, d_mlp, rng):
    parts = []
    for other in seeds:
        part = universality[universality["seed"] != other]
        moved = rng.integers(-1, 2, len(part)) * (rng.random(len(part)) < 0.4)
        parts.append(
            pd.DataFrame(
                {
                    "step": part["step"],
                    "seed": part["seed"],
                    "other_seed": other,
                    "layer": part["layer"],
                    "neuron": part["neuron"],
                    "best_corr": part["max_corr"],
                    "best_layer": (part["layer"] + moved).clip(0, n_layers - 1),
                    "best_neuron": rng.integers(0, d_mlp, len(part)),
                    "mutual": part["neuron"] % 2 == 0,
                    "baseline_corr": part["baseline_corr"],
                    "min_corr": -part["baseline_corr"],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _persistence(universality, seeds, steps, n_layers):
    rows = []
    for seed in seeds:
        mine = universality[universality["seed"] == seed]
        sets = {
            step: mine.loc[mine["step"] == step, ["layer", "universal"]].to_numpy()
            for step in steps
        }
        for start, end in combinations(steps, 2):
            for layer in range(-1, n_layers):
                rows.append((seed, layer, start, end, *_overlap(sets[start], sets[end], layer)))
    columns = [
        *("seed", "layer", "from_step", "to_step", "n_from", "n_to", "n_both"),
        *("persistence", "jaccard", "chance", "p_value"),
    ]
    table = pd.DataFrame(rows, columns=columns)
    # Not corrected here, only present.
    single = table["p_value"].where(table["layer"] >= 0)
    return table.assign(
        odds_ratio=8.0,
        q_value=single,
        ceiling=table["persistence"].where(table["n_from"] == 0, 0.9),
        matched_chance=(table["chance"] + 0.02).where(table["n_from"] > 0),
        matched_p_value=table["p_value"],
    )


def _overlap(first, second, layer):
    here = slice(None) if layer < 0 else first[:, 0] == layer
    a, b = first[here, 1].astype(bool), second[here, 1].astype(bool)
    n_from, n_to, n_both = int(a.sum()), int(b.sum()), int((a & b).sum())
    if not n_from:
        return n_from, n_to, n_both, np.nan, np.nan, n_to / len(a), np.nan
    p = stats.hypergeom.sf(n_both - 1, len(a), n_to, n_from)
    return n_from, n_to, n_both, n_both / n_from, n_both / (a | b).sum(), n_to / len(a), p


def compared(
    difference: float, se: float = 2e-5, *, comparable: bool = True
) -> dict[str, float | bool]:
    """The columns of a comparison of sets of like energy; of a set of controls all null."""
    known = not np.isnan(difference)
    return {
        "difference": difference,
        "difference_se": se if known else np.nan,
        "adjusted_difference": difference,
        "adjusted_difference_se": se if known else np.nan,
        "energy_ratio": 1.0 if known else np.nan,
        "overlap": 1.0 if known else np.nan,
        "comparable": comparable,
    }


def _ablation(universality, kinds, controls, rng):
    counts = universality.groupby(["step", "seed", "layer"])["universal"].sum()
    whole = counts.groupby(["step", "seed"]).sum()
    sizes = [(*key, int(n)) for key, n in counts.items()]
    sizes += [(*key, -1, int(n)) for key, n in whole.items()]
    rows = []
    for step, seed, layer, n in sizes:
        for kind in kinds:
            for draw in range(-1, controls):
                cost = (4e-4 if draw < 0 else 2e-4) * n * (1.5 if layer == 0 else 1.0)
                delta = cost + rng.normal(scale=2e-5 * np.sqrt(max(n, 1)) * 2) if n else np.nan
                rows.append(
                    {
                        "step": step,
                        "seed": seed,
                        "layer": layer,
                        "kind": kind,
                        "neuron_set": "universal" if draw < 0 else "control",
                        "draw": draw,
                        "n_neurons": n,
                        "loss_kind": "next_token",
                        "clean_loss": 2.0,
                        "clean_loss_later": 1.9,
                        "ablated_loss": 2.0 + delta,
                        "delta_loss": delta,
                        "delta_loss_se": 0.05 * cost + 2e-5 if n else np.nan,
                        "kl": 0.8 * cost if n else np.nan,
                        "top1_change": min(0.5, 0.01 * n) if n else np.nan,
                        "energy": 0.1 * n if n else np.nan,
                        "delta_loss_later": 0.9 * delta,
                        "energy_later": 0.1 * n if n else np.nan,
                        "direct_delta_loss": 0.4 * delta if draw < 4 else np.nan,
                        "permutation_p": 1 / (1 + controls) if n and draw < 0 else np.nan,
                        **compared(delta / 2 if n and draw < 0 else np.nan),
                    }
                )
    return pd.DataFrame(rows)


def _neurons(grid, rng):
    dead = rng.random(len(grid)) < 0.001
    std = np.where(dead, 0.0, rng.gamma(2.0, 0.3, len(grid)))
    return grid.assign(
        mean=0.1 * std,
        std=std,
        skewness=2.0,
        kurtosis=9.0,
        sparsity=0.3,
        min=-0.17,
        max=8 * std,
        dead=dead,
        escapes=rng.integers(0, 2, len(grid)),
        effective_tokens=rng.integers(20, 5000, len(grid)),
        rounding_se=1e-4,
        first_position_share=1 / 64,
    )


def _models(seeds, steps, n_layers, d_mlp):
    rows = []
    for i, seed in enumerate(seeds):
        for step in steps:
            rows.append(
                {
                    "seed": seed,
                    "step": step,
                    "source": "train",
                    "revision": None,
                    "sha256": f"{hash((i, step)) & (2**64 - 1):016x}" * 4,
                    "duplicate_of": None,
                    "n_layers": n_layers,
                    "d_mlp": d_mlp,
                    "loss_kind": "next_token",
                    "heldout_loss": 1.6 + 4.0 / (1 + step / 100) ** 0.7 + 0.02 * i,
                    "heldout_loss_later": 1.5 + 4.0 / (1 + step / 100) ** 0.7 + 0.02 * i,
                }
            )
    return pd.DataFrame(rows)


def _trajectories(universality, steps, rng):
    traces = universality[universality["step"] < max(steps)]
    moved = rng.random(len(traces)) < 0.3
    traces = traces.assign(
        next_layer=traces["layer"],
        next_neuron=traces["neuron"].where(~moved, (traces["neuron"] + 1) % 7),
        next_corr=0.8,
        self_corr=np.where(moved, 0.3, 0.8),
    )
    return trajectories(universality, traces)


def _doses(seeds, steps, n, rng):
    rows = []
    for step in steps:
        for seed in seeds:
            for dose in (0.01, 0.03, 0.1):
                for draw in range(-1, 3):
                    delta = dose * (0.2 if draw < 0 else 0.1) + rng.normal(scale=1e-4)
                    rows.append(
                        {
                            "step": step,
                            "seed": seed,
                            "kind": "mean",
                            "dose": dose,
                            "neuron_set": "top" if draw < 0 else "control",
                            "draw": draw,
                            "n_neurons": max(1, round(dose * n)),
                            "delta_loss": delta,
                            "delta_loss_se": 1e-4,
                            "kl": 0.8 * delta,
                            "top1_change": dose,
                            "energy": 0.1,
                            "delta_loss_later": 0.9 * delta,
                            "energy_later": 0.1,
                            **compared(0.1 * dose if draw < 0 else np.nan, 1e-4),
                        }
                    )
            # Twice as much as others at equal energy, in proportion to it.
            for name, dose, draw in (
                ("universal", 0.08, -1),
                *(("others", size, i) for size in (0.005, 0.02, 0.07, 0.25, 0.8) for i in (0, 1)),
            ):
                energy = 3 * dose * np.exp(0.1 * rng.normal())
                delta = energy * (0.2 if draw < 0 else 0.1) + rng.normal(scale=1e-5)
                rows.append(
                    {
                        **rows[-1],
                        "dose": dose,
                        "neuron_set": name,
                        "draw": draw,
                        "n_neurons": max(1, round(dose * n)),
                        "delta_loss": delta,
                        "delta_loss_se": 1e-6,
                        "energy": energy,
                        **compared(np.nan, np.nan),
                    }
                )
    return pd.DataFrame(rows)


def _effects(universality, rng):
    table = universality[["step", "seed", "layer", "neuron", "excess_corr"]]
    effect = 1e-4 * np.exp(5 * table["excess_corr"]) * rng.normal(size=len(table))
    place = table.groupby(["step", "seed"]).cumcount()
    exact = (effect * (1 + 0.1 * rng.normal(size=len(table)))).where(place < 16)
    return table.assign(
        perturbation=np.exp(rng.normal(size=len(table))),
        sparsity=rng.uniform(0.1, 0.9, len(table)),
        attributed_delta_loss=effect,
        delta_loss=exact,
        delta_loss_se=1e-6,
        sampled=np.select([place < 8, place < 16], ["top", "random"], ""),
    )


def _mediation(universality):
    """Three quarters of entropy neurons' effects go through the norm, a tenth of others'."""
    table = universality[["step", "seed", "layer", "neuron"]].query("neuron < 4")
    entropy = (table["neuron"] < 2).to_numpy()
    delta = np.where(table["neuron"] % 2, 1e-4, -3e-4)
    # Others may have a role that says nothing of the way.
    other = np.where(table["neuron"] == 2, "partition", None)
    found = {"role": np.where(entropy, "entropy", other), "delta_loss": delta}
    found["through_norm"] = np.where(entropy, 0.75, 0.1) * delta
    found["through_frequency"] = 0.2 * delta
    errors = dict.fromkeys(("delta_loss_se", "through_norm_se", "through_frequency_se"), 1e-6)
    return table.assign(**found, **errors)


def screening(seeds, steps, sampled=25_000, wrong=0):
    """That of a run in the screened mode; in the exact mode it has no rows."""
    rows = [(step, *pair) for step in steps for pair in permutations(seeds, 2)]
    table = pd.DataFrame(rows, columns=["step", "seed", "other_seed"])
    return table.assign(
        n_tokens=500_000,
        sampled_tokens=sampled,
        rare=20,
        undecided=30,
        certified=350,
        audited=100,
        wrong=wrong,
        wrong_upper=upper_bound(wrong, 100),
        baseline_shift=0.012,
        baseline_error=0.006,
    )


def _similarity(seeds, steps, n_layers):
    keys = [list(steps), list(combinations(seeds, 2)), range(n_layers), range(n_layers)]
    rows = [
        (step, *pair, i, j, 0.9 - 0.1 * abs(i - j))
        for step, pair, i, j in pd.MultiIndex.from_product(keys)
    ]
    table = pd.DataFrame(
        rows, columns=["step", "seed", "other_seed", "layer", "other_layer", "cka"]
    )
    return table.assign(
        pwcca=0.8 * table["cka"], procrustes=0.7 * table["cka"], soft_matching=0.3 * table["cka"]
    )


def _named(universality, column, names):
    """Every third neuron has none; with the excess the first becomes more common."""
    own = universality["neuron"] % 3 - 1
    own = own.where((universality["excess_corr"] < 0.25) | (universality["neuron"] % 2 == 0), 0)
    name = np.array([None, *names], dtype=object)[own + 1]
    return universality[["step", "seed", "layer", "neuron"]].assign(**{column: name})


def _token_budget(universality, seeds, steps, shards=8):
    rows = []
    found = universality.groupby(["step", "seed"])["universal"].sum()
    for i, step in enumerate(steps):
        for seed in seeds:
            n = int(found[step, seed])
            for part, own in (("first", 1), ("first", 2), ("first", 4), ("all", 8)):
                agreement = 1 - 0.1 * (len(steps) - i) * np.log2(shards / own) / 3
                rows.append((step, seed, part, own, n, agreement if n else np.nan, agreement))
            rows.append((step, seed, "second half", 4, n, 0.9 if n else np.nan, 0.93))
    columns = ["step", "seed", "part", "n_shards", "n_universal", "jaccard", "rank_corr"]
    table = pd.DataFrame(rows, columns=columns)
    second = table["part"] == "second half"
    return table.assign(
        n_tokens=1250 * table["n_shards"],
        n_neurons=universality.groupby(["step", "seed"]).size().iloc[0],
        corr=0.95,
        reliability=np.where(second, 0.97, np.nan),
    )
