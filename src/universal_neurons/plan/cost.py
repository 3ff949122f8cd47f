"""What every rule costs: jobs, operations, memory and bytes stored, by one formula each.

The rules ask a scheduler for what a rule's largest job needs; `shares` adds up all jobs.
Cheap to import: the Snakefile reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from universal_neurons.plan.grid import Grid
from universal_neurons.plan.sizes import (
    CONTEXTS,
    DIRECT_TOKENS,
    GIVEN_DRAWS,
    GIVEN_SUM_BYTES,
    INFLUENCE_GROUPS,
    INFLUENCE_TOKENS,
    INFLUENCE_VALUES,
    LARGE_KINDS,
    PER_ACTIVATION,
    PERMUTED_SHARE,
    REFINE_BYTES,
    REFINE_TOKENS,
    SAMPLE_TOKENS,
    UNTRAINED_TOKENS,
    WIDE_LAYER,
    WINDOW,
    Sizes,
)
from universal_neurons.store.chunks import CHUNK_BYTES

# Stored bytes per activation and per entry of a rotation, after compression; docs/performance.md.
ACTIVATION_BYTES = {"int8": 0.75, "bfloat16": 1.7, "float32": 3.7}
ROTATION_BYTES = 3.7

# Processor seconds of a job beside its operations, as a fork on this machine: of one that loads a
# model, and of another (docs/performance.md; as a process of its own it takes 7 and 2.5 s).
START_TORCH, START = 1.5, 0.5

# Memory of a process with its libraries, in MB.
PROCESS_MB = 1500

# Share of the neurons' pairs that the screened mode refines: candidates, a tenth of the neurons in
# full, and the audited hundredth of either model.
REFINED_SHARE = 0.12

# Cubes of a layer's width that a rotation takes: about 10 for the decomposition, in float64, which
# runs at half of float32's rate (1.9 s at a width of 3,072; docs/performance.md).
DECOMPOSITION = 20

# The same of similarity: factors, pairs of layers, spectra, by their time (docs/performance.md).
FACTORS, LAYERS_ALIKE, SPECTRA = 8, 7, 105

# Jobs that take less than this run on one thread, many side by side.
SMALL_JOB = 2e12
THREADS = 8

# Operations by the rate that they run at: ``model``, ``differences``, ``int8`` or ``float32``.
Work = Mapping[str, float]


@dataclass(frozen=True)
class Cost:
    """Cost of a rule.

    Attributes
    ----------
    job
        Multiplications and additions of the largest job.
    whole
        Those of all jobs.
    memory
        Bytes that the largest job holds besides the process itself.
    stored
        Bytes that stay on disk, of all jobs.
    start
        Processor seconds until a job is at work.
    least_minutes
        Run time to ask for, whatever the operations.
    """

    job: Work
    whole: Work
    memory: float
    stored: float = 0
    start: float = START
    least_minutes: int = 10

    @property
    def threads(self) -> int:
        """Threads of a job: one for small jobs, of which many run side by side."""
        return 1 if sum(self.job.values()) < SMALL_JOB else THREADS

    @property
    def minutes(self) -> int:
        """Run time to ask a scheduler for, from a slow 50 G operations per second."""
        return self.least_minutes + int(sum(self.job.values()) / 50e9 / 60)

    @property
    def mem_mb(self) -> int:
        """Memory to ask a scheduler for, in MB."""
        return PROCESS_MB + int(self.memory / 1e6)


@dataclass(frozen=True)
class Fixed:
    """What jobs ask for whose size hardly depends on the grid.

    Attributes
    ----------
    mem_mb, minutes, threads
        As of `Cost`.
    """

    mem_mb: int
    minutes: int
    threads: int = 1


# Rules that take little of anything.
FIXED = {
    "tokenizer": Fixed(2000, 30, 2),
    "fetch_tokenizer": Fixed(1000, 30),
    "corpus": Fixed(4000, 240, 2),
    "selection": Fixed(1000, 5),
    "score": Fixed(4000, 60),
    "persistence": Fixed(8000, 60),
    "trajectories": Fixed(8000, 30),
    "concatenate": Fixed(4000, 30),
    "concatenate_ablation": Fixed(2000, 30),
    "concatenate_doses": Fixed(2000, 30),
    "join_effects": Fixed(8000, 30),
    "concatenate_described": Fixed(8000, 30),
    "concatenate_examples": Fixed(4000, 30),
    "concatenate_contexts": Fixed(16000, 60),
    "vocabulary": Fixed(2000, 10),
    "neurons": Fixed(4000, 30),
    "subsets": Fixed(8000, 30),
    "models": Fixed(1000, 10),
    "figures": Fixed(8000, 30),
    "report": Fixed(8000, 30),
    "explorer": Fixed(8000, 60),
}


def times(work: Work, number: float) -> Work:
    """The operations of so many of the same."""
    return {kind: number * operations for kind, operations in work.items()}


def _fetch(s: Sizes) -> Cost:
    # Pickled weights and their copy.
    return Cost({}, {}, 2 * s.weights, s.models * s.weights, least_minutes=120)


def _train(s: Sizes) -> Cost:
    train = s.grid.config.models.train
    tokens = max(s.grid.steps) * train.batch_size * s.grid.config.corpus.context_length
    head = train.vocab_size * train.width
    forward = s.grid.forward_operations()
    # A step back costs two forward ones.
    job = {"model": 3 * (forward + 2 * head) * tokens}
    seeds = len(s.grid.seeds)
    stored = s.models * 4 * (forward / 2 + head)
    return Cost(job, times(job, seeds), 2.5e9, stored, START_TORCH, 720)


def _capture(s: Sizes) -> Cost:
    token = {"model": s.grid.forward_operations(), s.products: s.layer_products}
    config = s.grid.config.capture
    kept = ACTIVATION_BYTES[config.encoding] * s.scored * s.shape.neurons * config.keep
    return Cost(
        times(token, s.grid.shard_tokens()),
        times(token, s.models * s.scored),
        2 * s.weights
        + s.shape.n_layers * 2 * CHUNK_BYTES
        + 2 * s.square
        + 2 * LARGE_KINDS * s.layer_classes,
        s.models * (kept + s.kept_sums * s.class_sums + s.within_sums),
        START_TORCH,
    )


def _direct(s: Sizes) -> Cost:
    """All seeds of a step side by side; the sums within layers are made with the first block."""
    seeds, pairs = len(s.grid.seeds), len(s.grid.pairs)
    forward, within = s.grid.forward_operations(), s.layer_products
    passes = s.blocks // s.pairs
    token = {
        "model": seeds * forward,
        s.products: seeds * within + pairs * s.layers * s.layer_products,
    }
    whole = {
        "model": passes * s.models * s.scored * forward,
        s.products: s.models * s.scored * within + s.pairs * s.pair,
    }
    # Codes of all seeds, twice.
    codes = 2 * s.wide * DIRECT_TOKENS * s.shape.neurons
    sums = s.pairs * s.sum_bytes * s.shape.neurons**2 + s.has_classes * s.models * s.class_sums
    return Cost(
        times(token, s.grid.shard_tokens()),
        whole,
        s.direct_held + seeds * (2 * s.weights + codes),
        s.kept_sums * sums + s.models * s.within_sums,
        START_TORCH,
    )


def _correlate(s: Sizes) -> Cost:
    job = s.grid.shard_tokens() * s.sum_layers * s.layer_products
    return Cost(
        {s.products: job},
        {s.products: s.pairs * s.pair},
        s.layers * s.layer_sums + (s.layers - 1) * s.buffer + s.buffers,
        s.kept_sums * s.pairs * s.sum_bytes * s.shape.neurons**2,
    )


def _rotations(s: Sizes) -> Cost:
    rotations = s.draws * len(s.grid.layer_kinds)
    work = {"float32": DECOMPOSITION * rotations * s.cube}
    return Cost(work, work, 6 * s.square, ROTATION_BYTES * rotations * s.shape.d_mlp**2)


def _rotated_std(s: Sizes) -> Cost:
    # And once by the other choice of baseline.standardise.
    job = {"float32": 2 * (s.draws + 1) * s.shape.n_layers * s.cube}
    return Cost(job, times(job, s.models), 6 * s.square)


def _given(s: Sizes) -> Cost:
    """Products of a model's sums over classes, and its spread under rotations given these."""
    rotated = 2 * s.given_rotations * s.shape.n_layers * s.cube
    job = {"float32": s.given_classes * s.layer_products + rotated}
    stored = GIVEN_SUM_BYTES * s.models * s.given_classes * s.shape.neurons
    return Cost(job, times(job, s.models), 6 * s.square + 6 * s.layer_classes, stored)


def _match(s: Sizes) -> Cost:
    # The first rotation by the other choice of baseline.standardise, too.
    layer = {"float32": s.layer_baseline + s.layer_rotation}
    # With the sampled neurons of the token budget at some eight points.
    memory = (10 + s.draws) * s.square + (s.layers - 1) * s.square * (1 + s.draws) // 2
    if s.has_classes:
        # The same given classes of tokens, with sums of their scores' codes.
        given = s.given_layer
        layer = {"float32": layer["float32"] + given["float32"], "int8": given["int8"]}
        memory += (s.given * (2 + GIVEN_DRAWS) + 1) * s.square
        memory += (s.layers + 3) * 4 * s.given_classes * s.shape.d_mlp
    layers = s.pairs * s.shape.n_layers
    return Cost(times(layer, s.layers), times(layer, layers), memory)


def _similarity(s: Sizes) -> Cost:
    """All layers of a pair, which for spectra are few where they are wide."""
    layers = s.shape.n_layers
    spectra = layers if s.shape.d_mlp > WIDE_LAYER else layers**2
    cubes = FACTORS * 2 * layers + LAYERS_ALIKE * layers**2 + SPECTRA * spectra
    job = {"float32": cubes * s.cube}
    # Two factors in float32 of the other model's layers, of which a layer's sums are as large.
    return Cost(job, times(job, s.pairs), s.layer_sums + 8 * s.square)


def _screen(s: Sizes) -> Cost:
    sampled = s.grid.config.correlate.sample * s.pair / s.shape.n_layers
    # Of the layer; both may run at one rate.
    layer = {"float32": s.layer_baseline}
    layer[s.products] = layer.get(s.products, 0) + sampled
    memory = s.layers * (s.layer_sums + s.buffer + s.draws * s.square // 2) + s.buffers
    memory += (4 + s.draws) * s.square
    layers = s.pairs * s.shape.n_layers
    return Cost(times(layer, s.layers), times(layer, layers), memory)


def _refine(s: Sizes) -> Cost:
    # Those in full have baselines of their own.
    job = {"float32": REFINED_SHARE * s.shape.n_layers * s.layer_baseline}
    job[s.products] = job.get(s.products, 0) + REFINED_SHARE * s.pair
    # Given classes of tokens: rows as above, and pairs of candidates, either way.
    job["float32"] += REFINED_SHARE * s.given_classes * s.shape.n_layers * s.layer_products
    job["float32"] += s.given * REFINED_SHARE * GIVEN_DRAWS * s.shape.n_layers * s.layer_rotation
    rotated = s.draws * s.square + REFINE_BYTES // 2 + 6 * s.layer_classes + REFINE_BYTES
    memory = REFINE_BYTES + 6 * s.wide * REFINE_TOKENS * s.shape.neurons + rotated
    return Cost(job, times(job, s.pairs), memory)


def _influence(s: Sizes) -> Cost:
    seeds, pairs, steps = len(s.grid.seeds), len(s.grid.pairs), len(s.grid.steps)
    # Two sums of every neuron and one with its match, both ways, and the same given the token.
    sums = (2 if s.measured_means else 1) * 2 * (pairs + seeds)
    job = {"float32": 2 * 2 * sums * s.scored * s.shape.neurons}
    tokens = max(INFLUENCE_TOKENS, min(INFLUENCE_VALUES // s.shape.neurons, s.grid.shard_tokens()))
    memory = s.shape.neurons * (4 * tokens * seeds + 24 * INFLUENCE_GROUPS * sums)
    return Cost(job, times(job, steps), memory + s.measured_means)


def _permuted(s: Sizes) -> Cost:
    """Both models' rotations and their own spread under them too, as of all tokens."""
    spread = 4 * s.draws * s.shape.n_layers * s.cube
    work = {"float32": s.shape.n_layers * s.layer_baseline + spread}
    products = PERMUTED_SHARE * (s.pair + 2 * s.scored * s.layer_products)
    work[s.products] = work.get(s.products, 0) + products
    memory = s.layer_sums + 2 * s.buffers + (6 + 2 * s.draws) * s.square
    return Cost(work, times(work, s.pairs), memory)


def _untrained(s: Sizes) -> Cost:
    """Two models captured, compared and held against their rotations in one job."""
    products = 2 * s.layer_products + s.shape.n_layers * s.layer_products
    work = {"model": UNTRAINED_TOKENS * 2 * s.grid.forward_operations()}
    work["float32"] = s.shape.n_layers * (s.layer_baseline + s.layer_rotation)
    work[s.products] = work.get(s.products, 0) + UNTRAINED_TOKENS * products
    memory = 2 * s.weights + s.layer_sums + s.buffers + (7 + s.draws) * s.square
    return Cost(work, work, memory, start=START_TORCH)


def _random_directions(s: Sizes) -> Cost:
    """Every model run twice over the sample, and every draw of one matched with all others."""
    models = 4 * s.weights * len(s.grid.seeds)
    memory = models + 2 * s.layer_sums + s.buffers + (6 + s.draws) * s.square
    memory += 2 * s.random_layers * CHUNK_BYTES
    return Cost(s.random_work, times(s.random_work, len(s.grid.steps)), memory, start=START_TORCH)


def _held_out(s: Sizes, passes: float, heads: float, jobs: int, rate: str) -> Cost:
    """As many passes of a model through the held-out text, and losses of it, in every job."""
    token = passes * s.grid.forward_operations() + heads * s.head
    job = {rate: token * s.grid.config.corpus.heldout_tokens}
    return Cost(job, times(job, jobs), 3 * s.weights + s.heldout_batch, start=START_TORCH)


def _ablate(s: Sizes) -> Cost:
    """On average half of a model's layers run for every set; direct effects run few blocks."""
    ablation = s.grid.config.ablation
    cells = s.shape.n_layers + 1
    sets, direct = (1 + ablation.controls) * cells, 5 * cells
    return _held_out(s, sets / 2, sets + direct, s.models * len(ablation.kinds), s.ablated)


def _doses(s: Sizes) -> Cost:
    """Three doses and their controls, two named sets, and ten sets of others, of all layers."""
    return _held_out(s, 25, 25, s.models, s.ablated)


def _effects(s: Sizes) -> Cost:
    """Two passes back, of which each costs two forward ones, and half of one for every sample."""
    return _held_out(s, 15, 23, s.models, "model")


def _mediate(s: Sizes) -> Cost:
    """A pass, and two of a few layers for each of at most 32 neurons of the last two."""
    passes = 1 + 64 * min(1, 1.5 / s.shape.n_layers)
    return _held_out(s, s.mediated * passes, s.mediated * 97, s.models, "model")


def _trace(s: Sizes) -> Cost:
    """Two forward passes of a model's cell and all pairs of its neurons."""
    config = s.grid.config
    tokens = s.grid.trace_sequences() * config.corpus.context_length
    token = {"model": s.grid.forward_operations(), "float32": s.shape.neurons**2}
    model = times(token, 2 * tokens)
    return Cost(
        model,
        times(model, len(s.grid.seeds) * (len(s.grid.steps) - 1)),
        2 * s.weights + 3 * 4 * config.persistence.trace_tokens * s.shape.neurons,
        start=START_TORCH,
    )


def _describe(s: Sizes) -> Cost:
    """A forward pass, and all neurons and random directions against the vocabulary."""
    memory = 2 * s.weights + s.described_sums + 1e9
    whole = times(s.describing, s.models)
    return Cost(s.describing, whole, memory, s.descriptions, START_TORCH)


def _examples(s: Sizes) -> Cost:
    """A forward pass at the last step, of which the activations of chosen neurons are looked at."""
    job = {
        "model": s.described * s.grid.forward_operations(),
        "float32": PER_ACTIVATION * s.described * s.chosen,
    }
    sample = 4 * min(s.described, SAMPLE_TOKENS) * s.chosen
    # Sums of tokens that are not rare, which are some thousands of all.
    tokens = 8 * min(s.classes, s.described / 100) * s.chosen
    seeds = len(s.grid.seeds)
    stored = seeds * s.chosen * (4 * 2 * CONTEXTS * WINDOW + 512)
    return Cost(job, times(job, seeds), 2 * s.weights + sample + tokens, stored, START_TORCH)


def _contexts(s: Sizes) -> Cost:
    """A forward pass of every model, at the last step for the neurons of all other seeds."""
    job = {"model": s.described * s.grid.forward_operations()}
    read = 4 * CONTEXTS * WINDOW * s.chosen
    others = len(s.grid.seeds) - 1
    stored = len(s.grid.seeds) * (others + len(s.grid.steps) - 1) * read
    memory = 2 * s.weights + 4 * others * read
    return Cost(job, times(job, s.models), memory, stored, START_TORCH)


RULES: dict[str, Callable[[Sizes], Cost]] = {
    "fetch": _fetch,
    "train": _train,
    "capture": _capture,
    "direct": _direct,
    "rotations": _rotations,
    "rotated_std": _rotated_std,
    "screen": _screen,
    "refine": _refine,
    "correlate": _correlate,
    "given": _given,
    "match": _match,
    "similarity": _similarity,
    "influence": _influence,
    "permuted": _permuted,
    "untrained": _untrained,
    "random_directions": _random_directions,
    "ablate": _ablate,
    "doses": _doses,
    "effects": _effects,
    "mediate": _mediate,
    "trace": _trace,
    "describe": _describe,
    "examples": _examples,
    "contexts": _contexts,
}

# Rules whose jobs cost as those of another.
FORMULA = {
    "capture_first": "capture",
    "restore": "capture",
    "direct_first": "direct",
    "direct_more": "direct",
}


def cost(grid: Grid, rule: str) -> Cost:
    """Cost of one of `RULES`, whether or not the grid has jobs of it."""
    return RULES[rule](Sizes(grid))


def asked(grid: Grid, rule: str) -> Cost | Fixed:
    """What a job of any rule asks for: memory, minutes and threads."""
    return FIXED[rule] if rule in FIXED else cost(grid, rule)
