"""The grid of a run: which seeds, steps, layers, shards and pairs there are.

Everything here is known from the configuration and the models' ``config.json`` before any job
runs, and is cheap to import: the Snakefile reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations, product
from pathlib import Path
from typing import Any

from universal_neurons.errors import UserError
from universal_neurons.method import METHOD_VERSION
from universal_neurons.models import hub, names
from universal_neurons.models.shape import (
    Shape,
    read_context,
    read_loss_kind,
    read_shape,
    read_vocabulary,
)
from universal_neurons.plan.sections import Config
from universal_neurons.prepare.masking import FRAME

# Bytes of codes of a layer that products hold at a time (`products.BLOCK_BYTES`), and of a process
# that makes them, with its libraries.
BLOCK_BYTES, PROCESS_BYTES = 64 << 20, 450e6

# Most operations of a job that makes sums: a day's at a slow 50 G operations per second.
SUMS_OPERATIONS = 50e9 * 86400


def model_directory(config: Mapping[str, Any], seed: str, step: int | str) -> str:
    """Where a local model is, or where one of the Hub is put."""
    if config["models"]["source"] == "hub":
        return f"results/{config['run']}/models/seed{seed}/step{step}"
    return names.local(config["models"], seed, int(step))


def tokenizer_directories(
    config: Mapping[str, Any], fetched: Sequence[str | Path] = ()
) -> dict[str, Path]:
    """Where the tokenizers are that make the corpus, by seed: the first seed's is that of all.

    With ``corpus.align`` every seed has its own, that of its first step.

    Parameters
    ----------
    config
        A resolved configuration.
    fetched
        Where the workflow put them, if it did.
    """
    if config["corpus"]["align"] == "none":
        [own] = fetched or [tokenizer_directory(config)]
        return {config["models"]["seeds"][0]: Path(own)}
    seeds, step = config["models"]["seeds"], config["models"]["steps"][0]
    given = fetched or [model_directory(config, seed, step) for seed in seeds]
    return dict(zip(seeds, map(Path, given), strict=True))


def tokenizer_directory(config: Mapping[str, Any]) -> Path:
    """Where the tokenizer is that makes the corpus: if nothing else is said, the first model's."""
    models = config["models"]
    given = models["tokenizer"]
    return Path(given or model_directory(config, models["seeds"][0], models["steps"][0]))


@dataclass(frozen=True)
class Grid:
    """The cells of a run.

    Parameters
    ----------
    config
        Of the run.
    shapes
        Size of every seed's models.
    vocabulary
        Their token ids, as far as that is known.
    loss_kind
        What they predict, see `Architecture.loss_kind`.
    """

    config: Config
    shapes: Mapping[str, Shape]
    vocabulary: int | None
    loss_kind: str = "next_token"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Grid:
        """The grid of a resolved configuration (`config.resolve`).

        Reads the ``config.json`` of models that the workflow does not make, from the Hub where it
        is not at hand (`hub.config_directories`).
        """
        typed = Config.of(config)
        models, train = typed.models, typed.models.train
        if models.source == "train":
            shape = Shape(train.layers, train.d_mlp)
            return cls(typed, dict.fromkeys(models.seeds, shape), train.vocab_size)
        cells = list(product(models.seeds, models.steps))
        directories = [Path(model_directory(config, seed, step)) for seed, step in cells]
        if models.source == "hub":
            wanted = [hub.name_of(config["models"], seed, step) for seed, step in cells]
            directories = hub.config_directories(wanted, directories)
        shapes: dict[str, Shape] = {}
        vocabularies: set[int] = set()
        kinds: set[str] = set()
        for (seed, step), directory in zip(cells, directories, strict=True):
            shape, vocabulary = read_shape(directory), read_vocabulary(directory)
            context, length = read_context(directory), typed.corpus.context_length
            if context is not None and length > context:
                raise UserError(
                    f"corpus.context_length: {length} is more than the {context} tokens that the "
                    f"model of seed {seed}, step {step} reads ({directory / 'config.json'})"
                )
            if shapes.setdefault(seed, shape) != shape:
                raise UserError(f"models.path: seed {seed} has different sizes at its steps")
            if vocabulary is not None:
                vocabularies.add(vocabulary)
            kinds.add(read_loss_kind(directory))
        if len(kinds) > 1:
            raise UserError(
                "models.seeds: some models predict the next token and others masked ones, and read "
                "other sequences; give them runs of their own"
            )
        if "masked" in kinds and typed.corpus.context_length <= FRAME:
            raise UserError(
                f"corpus.context_length: {typed.corpus.context_length} leaves no room for text "
                f"between the tokens that frame an encoder's; use more than {FRAME}"
            )
        # Where text is tokenised, the tokenizers themselves are compared (`corpus`).
        if len(vocabularies) > 1 and typed.corpus.source == "tokens":
            raise UserError(
                f"models.seeds: the models have vocabularies of {sorted(vocabularies)} tokens, so "
                "the same token ids do not mean the same text; use seeds of one vocabulary"
            )
        if not typed.capture.store and len(set(shapes.values())) > 1:
            raise UserError(
                "capture.store: false runs all seeds side by side and needs them to have one size; "
                "use true"
            )
        return cls(typed, shapes, max(vocabularies, default=None), *kinds)

    @property
    def seeds(self) -> list[str]:
        """Seed labels in the order of the configuration."""
        return self.config.models.seeds

    @property
    def by_name(self) -> list[str]:
        """Seed labels sorted: for what must not depend on their order in the configuration."""
        return sorted(self.seeds)

    @property
    def steps(self) -> list[int]:
        """Training steps, ascending."""
        return self.config.models.steps

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Unordered pairs of seeds, each sorted, so that the order of the seeds is immaterial."""
        return list(combinations(self.by_name, 2))

    @cached_property
    def layer_kinds(self) -> list[tuple[int, int]]:
        """Width and number of every layer of any seed: what there are rotations for."""
        shapes = set(self.shapes.values())
        return sorted({(shape.d_mlp, i) for shape in shapes for i in range(shape.n_layers)})

    def training_key(self, contents: Sequence[str]) -> str:
        """Short name of what trained models depend on: options, corpus and method.

        Parameters
        ----------
        contents
            Digests of the files of the corpus (`contents.digests`).
        """
        corpus = self.config.corpus
        keys = ("source", "path", "text_key", "context_length", "seed")
        about = [
            METHOD_VERSION["train"],
            METHOD_VERSION["corpus"],
            asdict(self.config.models.train),
            {key: getattr(corpus, key) for key in keys},
            contents,
        ]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def shards(self) -> range:
        """Shard numbers."""
        return range(self.config.corpus.shards)

    @property
    def measured_shards(self) -> list[int]:
        """Shards that errors are measured on.

        Where activations are not kept, those of the first one alone wait for the matches.
        """
        all_wait = self.config.capture.keep or self.config.correlate.mode == "screened"
        return list(self.shards if all_wait else self.shards[:1])

    def shard_range(self, shard: int) -> tuple[int, int]:
        """First sequence of a shard and the one after its last.

        A shard has a fixed number of tokens, tokens / shards, and its sequences are those that end
        within them. So all sequences are of some shard, their numbers differ by one at most, and
        more tokens in proportionally more shards leave the old shards as they are.
        """
        corpus = self.config.corpus
        start, stop = (
            end * corpus.tokens // (corpus.shards * corpus.context_length)
            for end in (shard, shard + 1)
        )
        return start, stop

    def shard_tokens(self) -> int:
        """Tokens of the largest shard."""
        return max(
            (stop - start) * self.config.corpus.context_length
            for start, stop in map(self.shard_range, self.shards)
        )

    def layers_of_job(self, seed: str, other_seed: str) -> int:
        """Number of layers of `seed` that a job works on at a time.

        As many as `correlate.memory_gb` holds: a job reads the other seed's codes once for all of
        them. Without stored activations it holds the sums of all pairs, else those of this one,
        with the codes that it works on, and itself.
        """
        shape, other = self.shapes[seed], self.shapes[other_seed]
        layer = 8 * shape.d_mlp * other.neurons
        budget = self.config.correlate.memory_gb * 1e9
        if self.config.capture.store:
            codes = 2 * BLOCK_BYTES * (1 if self.config.capture.encoding == "int8" else 4)
            budget -= PROCESS_BYTES + codes + 4 * shape.d_mlp * other.d_mlp
            layer += codes
        else:
            # And the within-layer sums of all seeds.
            budget -= len(self.seeds) * 8 * shape.d_mlp * shape.neurons
            layer *= len(self.pairs)
        return max(1, min(shape.n_layers, int(budget / layer)))

    def sum_blocks(self, seed: str, other_seed: str) -> list[str]:
        """Groups of consecutive layers of `seed` that one job makes the sums of, as ``0-1``.

        Of stored activations a job makes as many as keep it within a day on a slow machine, some of
        them at a time (`layers_of_job`): the fewer jobs, the sooner they are planned.
        """
        shape, other = self.shapes[seed], self.shapes[other_seed]
        most = self.layers_of_job(seed, other_seed)
        if self.config.capture.store:
            layer = 2 * self.shard_tokens() * shape.d_mlp * other.neurons
            most = max(1, int(SUMS_OPERATIONS / layer))
        return [f"{part[0]}-{part[-1]}" for part in _even_parts(range(shape.n_layers), most)]

    def layer_blocks(self, seed: str, other_seed: str) -> list[str]:
        """Groups of consecutive layers of `seed` that one job matches, parts of `sum_blocks`."""
        most = self.layers_of_job(seed, other_seed)
        blocks = map(parse_layers, self.sum_blocks(seed, other_seed))
        parts = (part for block in blocks for part in _even_parts(block, most))
        return [f"{part[0]}-{part[-1]}" for part in parts]

    def sum_block(self, seed: str, other_seed: str, layers: str) -> str:
        """The one of `sum_blocks` that has the layers of one of `layer_blocks`."""
        [first, *_] = parse_layers(layers)
        blocks = self.sum_blocks(seed, other_seed)
        return next(block for block in blocks if first in parse_layers(block))

    @property
    def traced_steps(self) -> list[int]:
        """Steps from which neurons are traced to the next."""
        return self.steps[:-1] if self.config.persistence.trace_tokens else []

    def trace_sequences(self) -> int:
        """Scored sequences that neurons are traced to the next step on."""
        corpus, wanted = self.config.corpus, self.config.persistence.trace_tokens
        return max(1, min(wanted, corpus.tokens) // corpus.context_length)

    def sequences_of_directions(self) -> int:
        """Scored sequences that random directions are matched on."""
        corpus, wanted = self.config.corpus, self.config.nulls.random_directions.tokens
        return max(1, min(wanted, corpus.tokens) // corpus.context_length)

    def described_sequences(self) -> int:
        """Scored sequences that neurons are described on."""
        corpus, wanted = self.config.corpus, self.config.explorer.tokens
        return max(1, min(wanted, corpus.tokens) // corpus.context_length)

    def forward_operations(self) -> float:
        """Operations per token: a block has about 12 weights per squared width, d_mlp = 4 width."""
        shape = self.largest
        return 2 * 12 * shape.n_layers * (shape.d_mlp / 4) ** 2

    @property
    def largest(self) -> Shape:
        """Size of the largest models."""
        return max(self.shapes.values(), key=lambda shape: shape.neurons)


def _even_parts(layers: Sequence[int], most: int) -> list[Sequence[int]]:
    """Parts of at most so many layers, as even as can be."""
    parts = -(-len(layers) // most)
    size = -(-len(layers) // parts)
    return [layers[start : start + size] for start in range(0, len(layers), size)]


def parse_layers(block: str) -> list[int]:
    """Layers of a block named by `Grid.layer_blocks`."""
    first, last = block.split("-")
    return list(range(int(first), int(last) + 1))
