"""What is known of a seed's chosen neurons, in shards that a neuron's page loads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.explorer.known import ByRow, Seed
from universal_neurons.explorer.numbers import Rows, Run, Sources, of_seed
from universal_neurons.explorer.shards import short
from universal_neurons.explorer.windows import Windows, read_windows
from universal_neurons.store.tables import records

# Chosen neurons in one shard, which a page loads whole: 60 kB, and few enough files.
PER_SHARD = 8
# Bins of a histogram that are drawn as one.
MERGED = 2

Facts = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """Some chosen neurons of a seed: `shards.write_shard` takes facts and arrays."""

    facts: Facts
    arrays: dict[str, NDArray[Any]]


def shards(run: Run, seed: Seed) -> Iterator[Shard]:
    """Yield the shards of a seed's chosen neurons, each of `PER_SHARD`."""
    sources, rows = run.sources, run.rows[seed.name]
    known = {
        "partners": _partners(run, seed),
        "groups": seed.groups,
        "histograms": _histograms(sources, rows, seed.name, run.last),
        "activating": _activating(sources, rows, seed.name, run.last),
        "course": _courses(seed),
        "steps": _by_step(seed),
    }
    known |= {name: _pairs(seed, *tokens) for name, tokens in seed.tokens.items()}
    held: list[tuple[Facts, Windows]] = []
    all_windows = read_windows(
        sources.examples, sources.contexts, run.rows, seed.name, run.extremes
    )
    for row, windows in all_windows:
        facts = {"row": row, **{name: of_row.get(row) for name, of_row in known.items()}}
        facts |= {"contexts": windows.contexts, "readings": _named(windows.readings, run.seeds)}
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


def _by_step(seed: Seed) -> ByRow:
    """By row, and name of a number, its values at all steps."""
    chosen = [of_step.loc[seed.chosen] for of_step in seed.numbers.values()]
    found: dict[int, Facts] = {row: {} for row in seed.chosen.tolist()}
    for name in chosen[0].columns:
        values = (map(short, of_step[name].tolist()) for of_step in chosen)
        for of_row, of_steps in zip(found.values(), zip(*values, strict=True), strict=True):
            of_row[name] = of_steps
    return found


def _partners(run: Run, seed: Seed) -> ByRow:
    """By row, for every step its best matches: seed's place, row, correlations, whether mutual."""
    found: dict[int, list[Any]] = {row: [[] for _ in run.steps] for row in seed.chosen.tolist()}
    own = seed.matches[seed.matches["row"].isin(seed.chosen)]
    numbers = ("best_corr", "best_corr_se", "baseline_corr", "mutual")
    for match in records(own.sort_values("place", kind="stable")):
        of_step = found[match["row"]][run.steps.index(match["step"])]
        of_step.append([match["place"], match["best"], *(short(match[name]) for name in numbers)])
    return found


def _courses(seed: Seed) -> ByRow:
    """By row the label of its course and the step at which it is first universal."""
    found = seed.courses.loc[seed.courses.index.intersection(seed.chosen.tolist())]
    pairs = zip(found["label"], found["emergence_step"].tolist(), strict=True)
    return dict(zip(found.index.tolist(), map(list, pairs), strict=True))


def _pairs(seed: Seed, ids: NDArray[Any], cosines: NDArray[Any]) -> ByRow:
    """By row tokens and their cosines."""
    pairs = zip(ids[seed.chosen].tolist(), cosines[seed.chosen].tolist(), strict=True)
    listed = ([[t, short(c)] for t, c in zip(*pair, strict=True)] for pair in pairs)
    return dict(zip(seed.chosen.tolist(), listed, strict=True))


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
