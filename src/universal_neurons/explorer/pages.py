"""What is known of a seed's chosen neurons, in shards that a neuron's page loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.explorer.numbers import COLUMNS, Rows, Run, Sources, of_seed
from universal_neurons.explorer.partners import courses, partners
from universal_neurons.explorer.shards import short
from universal_neurons.explorer.windows import Windows, read_windows
from universal_neurons.store.tables import read_table, records

# Chosen neurons in one shard, which a page loads whole: 60 kB, and few enough files.
PER_SHARD = 8
# Bins of a histogram that are drawn as one.
MERGED = 2

Facts = dict[str, Any]
ByRow = Mapping[int, Any]


@dataclass(frozen=True)
class Shard:
    """Some chosen neurons of a seed: `shards.write_shard` takes facts and arrays."""

    facts: Facts
    arrays: dict[str, NDArray[Any]]


def chosen_rows(run: Run, seed: str) -> NDArray[np.int64]:
    """Which neurons of a seed have contexts, ascending."""
    return np.unique(run.rows[seed].of(of_seed(run.sources.examples, [], seed)))


def shards(
    run: Run, seed: str, found: Mapping[int, pd.DataFrame], tokens: set[int]
) -> Iterator[Shard]:
    """Yield the shards of a seed's chosen neurons, each of `PER_SHARD`.

    Parameters
    ----------
    run
        Its tables and neurons.
    seed
        Whose neurons.
    found
        By step all `COLUMNS` of the chosen neurons, by row.
    tokens
        Takes the ids of all tokens that occur.
    """
    sources, rows = run.sources, run.rows[seed]
    chosen = chosen_rows(run, seed)
    known = {
        "partners": partners(run, seed, chosen),
        "groups": _groups(run, seed, chosen),
        "histograms": _histograms(sources, rows, seed, run.last),
        "activating": _activating(sources, rows, seed, run.last),
        "course": courses(run, seed, chosen),
    }
    promoted = _promoted(sources, rows, seed, run.last, chosen)
    by_step = _by_step(found)
    held: list[tuple[Facts, Windows]] = []
    all_windows = read_windows(sources.examples, sources.contexts, run.rows, seed, run.extremes)
    for row, windows in all_windows:
        facts = {name: of_row.get(row) for name, of_row in known.items()}
        facts |= {
            "row": row,
            "steps": {name: of_rows[row] for name, of_rows in by_step.items()},
            **promoted.get(row, {}),
        }
        facts |= {"contexts": windows.contexts, "readings": _named(windows.readings, run.seeds)}
        tokens |= _ids(facts) | set(np.unique(windows.tokens).tolist())
        held.append((facts, windows))
        if len(held) == PER_SHARD:
            yield _shard(held)
            held = []
    if held:
        yield _shard(held)


def _shard(held: Sequence[tuple[Facts, Windows]]) -> Shard:
    tokens = np.concatenate([windows.tokens for _, windows in held])
    narrow = tokens.astype(np.uint16) if tokens.max(initial=0) < 1 << 16 else tokens
    codes = np.concatenate([windows.codes for _, windows in held])
    facts = {"neurons": [facts for facts, _ in held]}
    return Shard(facts, {"tokens": narrow, "codes": codes})


def _named(readings: Sequence[Facts], seeds: Sequence[str]) -> list[Facts]:
    """Readings with the places of their seeds."""
    return [{**reading, "seed": list(seeds).index(reading["seed"])} for reading in readings]


def _by_step(found: Mapping[int, pd.DataFrame]) -> dict[str, ByRow]:
    """By name of a number, and row, its values at all steps."""
    names = [name for columns in COLUMNS.values() for name in columns]
    rows = next(iter(found.values())).index.tolist()
    by_name: dict[str, ByRow] = {}
    for name in names:
        steps = [map(short, frame[name].tolist()) for frame in found.values()]
        by_name[name] = dict(zip(rows, map(list, zip(*steps, strict=True)), strict=True))
    return by_name


def _groups(run: Run, seed: str, chosen: NDArray[np.int64]) -> ByRow:
    """By row, for every step the group that it is a member of: its correlations and members."""
    found = read_table(
        run.sources.groups,
        ["step", "group", "seed", "layer", "neuron", "group_mean_corr", "group_min_corr"],
    )
    groups: dict[int, list[Facts | None]] = {}
    wanted = set(chosen.tolist())
    for (step, _), members in found.groupby(["step", "group"]):
        row = None
        listed = []
        for member in records(members):
            other = str(member["seed"])
            place = int(sum(run.rows[other].widths[: member["layer"]]) + member["neuron"])
            listed.append([run.seeds.index(other), place])
            row = place if other == seed else row
        if row is not None and row in wanted:
            of_steps = groups.setdefault(row, [None] * len(run.steps))
            first = members.iloc[0]
            corr = [short(first["group_mean_corr"]), short(first["group_min_corr"])]
            of_steps[run.steps.index(step)] = {"corr": corr, "members": sorted(listed)}
    return groups


def _histograms(sources: Sources, rows: Rows, seed: str, step: int) -> ByRow:
    """By row the histograms of all tokens and of subsets."""
    found = of_seed(sources.histograms, ["subset", "low", "high", "counts"], seed, step=step)
    histograms: dict[int, list[Facts]] = {}
    for row, each in zip(rows.of(found), records(found), strict=True):
        counts = np.asarray(each["counts"]).reshape(-1, MERGED).sum(1).tolist()
        subset = None if pd.isna(each["subset"]) else str(each["subset"])
        about = {"subset": subset, "low": short(each["low"]), "high": short(each["high"])}
        histograms.setdefault(int(row), []).append({**about, "counts": counts})
    return histograms


def _activating(sources: Sources, rows: Rows, seed: str, step: int) -> ByRow:
    """By row the tokens with the largest mean activation: id, mean, how often."""
    columns = ["rank", "token_id", "mean", "count"]
    found = of_seed(sources.activating_tokens, columns, seed, step=step)
    found["row"] = rows.of(found)
    listed: dict[int, list[Any]] = {}
    for each in records(found.sort_values(["row", "rank"])):
        listed.setdefault(int(each["row"]), []).append(
            [int(each["token_id"]), short(each["mean"]), int(each["count"])]
        )
    return listed


def _promoted(
    sources: Sources, rows: Rows, seed: str, step: int, chosen: NDArray[np.int64]
) -> Mapping[int, Facts]:
    """By row the tokens that its output promotes and suppresses most, by their cosines.

    They are those with the largest logits, which go by the length of the unembedding, too.
    """
    columns = ["promoted_ids", "promoted_cos", "suppressed_ids", "suppressed_cos"]
    found = of_seed(sources.roles, columns, seed, step=step)
    found.index = pd.Index(rows.of(found))
    found = found.loc[found.index.intersection(chosen.tolist())]
    return {
        row: {
            name: _pairs(each[f"{name}_ids"], each[f"{name}_cos"])
            for name in ("promoted", "suppressed")
        }
        for row, each in zip(found.index.tolist(), records(found), strict=True)
    }


def _pairs(ids: Any, cosines: Any) -> list[list[Any]]:
    if ids is None or cosines is None:
        return []
    pairs = [[int(token), short(float(cosine))] for token, cosine in zip(ids, cosines, strict=True)]
    return sorted(pairs, key=lambda pair: -abs(pair[1]))


def _ids(facts: Facts) -> set[int]:
    """Tokens that a neuron's facts name."""
    lists = (facts.get(name) or [] for name in ("promoted", "suppressed", "activating"))
    return {each[0] for listed in lists for each in listed}
