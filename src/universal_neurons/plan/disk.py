"""How much a run holds on disk at a time: its jobs in the order that they would run in.

Activations and partial sums are most of what a run stores, and may be temporary (`capture.keep`,
`correlate.keep_sums`). Then what counts is not what is written in all but how much of it lies there
together: which job makes what, and when the last that reads it is done.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from universal_neurons.plan.cost import ACTIVATION_BYTES, FORMULA, RULES, cost
from universal_neurons.plan.counts import counts
from universal_neurons.plan.grid import Grid, parse_layers
from universal_neurons.plan.sizes import CLASS_SUM_BYTES, LARGE_KINDS, SUM_BYTES, Sizes
from universal_neurons.plan.turns import MAKERS, READERS
from universal_neurons.plan.units import in_bytes

# Stored bytes per neuron, model and other seed in matches, moments, influences and tables, and of
# the pages, records, logs and figures of any run (the demo's: docs/performance.md).
NEURON_BYTES, ANY_RUN = 1600, 8e6
# Operations per second that a job runs at, about; only their ratios matter here.
RATES = {"int8": 1e12, "float32": 2e11, "model": 1.2e11}
# Jobs at a time that a cluster may run.
AT_ONCE = 64
# Room worth a note, and the longest job that is no worse for being one.
NOTABLE, LONGEST_MINUTES = 100e9, 24 * 60

File = tuple[object, ...]


@dataclass(frozen=True)
class Job:
    """A job as far as the room on disk depends on it.

    Attributes
    ----------
    rule, step
        What it is of.
    reads
        Files that it needs.
    makes
        Bytes of the files that it makes; they count from its start.
    scratch
        Bytes of what it makes for itself.
    """

    rule: str
    step: int
    reads: Sequence[File]
    makes: Mapping[File, float]
    scratch: float = 0


@dataclass(frozen=True)
class Room:
    """Bytes on disk at the time when they are most.

    Attributes
    ----------
    activations, sums, rest
        What they are of; `sums` also by classes of tokens.
    """

    activations: float
    sums: float
    rest: float

    @property
    def bytes(self) -> float:
        """All of them."""
        return self.activations + self.sums + self.rest


def most_held(grid: Grid, at_once: int = AT_ONCE) -> Room:
    """Room that a run takes when it takes the most, if it begins with nothing.

    Parameters
    ----------
    grid
        Of the run.
    at_once
        Jobs that run side by side.
    """
    keep = grid.config.capture.keep, grid.config.correlate.keep_sums
    kept = {name for name, is_kept in zip(("activations", "sums"), keep, strict=True) if is_kept}
    jobs = [job for step in grid.steps for job in _jobs(grid, step)]
    held = max(_history(grid, jobs, kept, at_once), key=lambda held: sum(held.values()))
    activations, sums, scratch = (held.get(kind, 0) for kind in ("activations", "sums", "scratch"))
    return Room(activations, sums, scratch + _rest(grid))


def shards_note(grid: Grid) -> list[str]:
    """A sentence where fewer shards would save much room and make no job too long."""
    config, shards = grid.config, len(grid.shards)
    if config.correlate.mode == "screened" and config.capture.store:
        return []
    steps = len(grid.steps) if config.correlate.keep_sums else 1
    pairs = steps * len(grid.pairs)
    of_a_shard = pairs * SUM_BYTES[config.capture.encoding] * grid.largest.neurons**2
    for fewer in range(1, shards):
        corpus = replace(config.corpus, shards=fewer)
        other = replace(grid, config=replace(config, corpus=corpus))
        rules = ("capture", "correlate") if config.capture.store else ("direct",)
        if max(cost(other, rule).minutes for rule in rules) <= LONGEST_MINUTES:
            saved = (shards - fewer) * of_a_shard
            return [
                f"corpus.shards: every shard has partial sums of its own; {fewer} in place of "
                f"{shards} would save {in_bytes(saved)} of disk."
            ] * (saved >= NOTABLE)
    return []


def _rest(grid: Grid) -> float:
    """Bytes of what stays and is neither activations nor sums: little, and counted at once."""
    sizes = Sizes(grid)
    rules = {FORMULA.get(rule, rule) for rule in counts(grid)} & RULES.keys()
    stored = sum(cost(grid, rule).stored for rule in rules - {"capture", "correlate", "direct"})
    others = len(grid.seeds) - 1
    of_a_model = sizes.within_sums + NEURON_BYTES * others * sizes.shape.neurons
    return stored + sizes.models * of_a_model + ANY_RUN


def _jobs(grid: Grid, step: int) -> Iterator[Job]:
    """A step's jobs that make or read activations or sums, or much for themselves."""
    config, seeds, shards = grid.config, grid.by_name, list(grid.shards)
    blocks = {pair: grid.sum_blocks(*pair) for pair in grid.pairs}
    sums = {pair: [("sums", step, *pair, block) for block in blocks[pair]] for pair in grid.pairs}
    has_classes = Sizes(grid).has_classes

    def activations(pair: Sequence[str], some: Sequence[int]) -> list[File]:
        return [("activations", step, seed, shard) for seed in pair for shard in some]

    if draws := config.nulls.random_directions.draws:
        # A byte per activation of the neurons and of those drawn.
        tokens = grid.sequences_of_directions() * config.corpus.context_length
        neurons = sum(shape.neurons for shape in grid.shapes.values())
        yield Job("random_directions", step, [], {}, (1 + draws) * tokens * neurons)
    if not config.capture.store:
        for shard in shards:
            made: dict[File, float] = {}
            for pair in grid.pairs:
                made |= {(*one, shard): _sum_bytes(grid, pair, one[-1]) for one in sums[pair]}
            for seed in seeds if has_classes else []:
                made |= _class_sums(grid, step, seed, shard)
            yield Job("direct", step, [], made)
    for seed in seeds:
        for shard in shards if config.capture.store else []:
            yield Job("capture", step, [], _captured(grid, step, seed, shard))
        if has_classes:
            classes: list[File] = [("sums", "classes", step, seed, shard) for shard in shards]
            yield Job("given", step, classes, {})
    matches: list[File] = [("matches", step, *pair) for pair in grid.pairs]
    for pair, matched in zip(grid.pairs, matches, strict=True):
        if config.capture.store:
            yield Job("permuted", step, activations(pair, shards[:1]), {})
        if config.correlate.mode == "screened":
            yield Job("refine", step, activations(pair, shards), {matched: 0})
            continue
        if config.capture.store:
            for one in sums[pair]:
                for shard in shards:
                    made = {(*one, shard): _sum_bytes(grid, pair, one[-1])}
                    yield Job("correlate", step, activations(pair, [shard]), {**made})
        of_pair = [(*one, shard) for one in sums[pair] for shard in shards]
        yield Job("match", step, of_pair, {matched: 0})
        if config.correlate.similarity:
            yield Job("similarity", step, of_pair, {})
    if config.capture.store:
        yield Job("influence", step, [*matches, *activations(seeds, grid.measured_shards)], {})


def _captured(grid: Grid, step: int, seed: str, shard: int) -> dict[File, float]:
    start, stop = grid.shard_range(shard)
    tokens, neurons = (stop - start) * grid.config.corpus.context_length, grid.shapes[seed].neurons
    activation = ACTIVATION_BYTES[grid.config.capture.encoding]
    return {
        ("activations", step, seed, shard): activation * tokens * neurons,
        **_class_sums(grid, step, seed, shard),
    }


def _class_sums(grid: Grid, step: int, seed: str, shard: int) -> dict[File, float]:
    start, stop = grid.shard_range(shard)
    tokens = (stop - start) * grid.config.corpus.context_length
    groups = LARGE_KINDS * min(2 * Sizes(grid).classes, tokens)
    held = CLASS_SUM_BYTES * groups * grid.shapes[seed].neurons
    return {("sums", "classes", step, seed, shard): held}


def _sum_bytes(grid: Grid, pair: tuple[str, str], block: object) -> float:
    shape, other = (grid.shapes[seed] for seed in pair)
    d_mlp = len(parse_layers(str(block))) * shape.d_mlp
    return SUM_BYTES[grid.config.capture.encoding] * d_mlp * other.neurons


def _history(
    grid: Grid, jobs: Sequence[Job], kept: set[str], at_once: int
) -> Iterator[dict[str, float]]:
    """What is held of each kind whenever a job has begun.

    As Snakemake does here: of the jobs whose inputs are there, those that read first, in the order
    of the steps; and where anything is temporary, no step begins before the one before it is read.
    """
    seconds = {
        rule: found.start + sum(found.job[kind] / RATES[kind] for kind in found.job)
        for rule in {job.rule for job in jobs}
        for found in [cost(grid, rule)]
    }
    turns = not {"activations", "sums"} <= kept
    readers = Counter(file for job in jobs for file in job.reads)
    unread = Counter(job.step for job in jobs if job.rule in READERS)
    missing = [len(job.reads) for job in jobs]
    waiting: dict[File, list[int]] = {}
    for number, job in enumerate(jobs):
        for file in job.reads:
            waiting.setdefault(file, []).append(number)
    ready = [number for number, job in enumerate(jobs) if not job.reads]
    sizes = {file: size for job in jobs for file, size in job.makes.items()}
    running: list[tuple[float, int, int]] = []
    held: dict[str, float] = defaultdict(float)
    now, order = 0.0, count()
    while ready or running:
        first = min((step for step, left in unread.items() if left), default=0)
        ready.sort(key=lambda number: (not jobs[number].reads, jobs[number].step))
        held_back = {
            number
            for number in ready
            if turns and jobs[number].rule in MAKERS and jobs[number].step > first
        }
        for number in [number for number in ready if number not in held_back]:
            if len(running) == at_once:
                break
            ready.remove(number)
            job = jobs[number]
            held["scratch"] += job.scratch
            for file, size in job.makes.items():
                held[str(file[0])] += size
            heapq.heappush(running, (now + seconds[job.rule], next(order), number))
            yield dict(held)
        now, _, number = heapq.heappop(running)
        job = jobs[number]
        held["scratch"] -= job.scratch
        unread[job.step] -= job.rule in READERS
        for file in job.reads:
            readers[file] -= 1
            if not readers[file] and str(file[0]) not in kept:
                held[str(file[0])] -= sizes[file]
        for file in job.makes:
            for other in waiting.get(file, ()):
                missing[other] -= 1
                if not missing[other]:
                    ready.append(other)
