"""The amounts that the costs of several rules are made of: operations, bytes, numbers of cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from universal_neurons.models.shape import Shape
from universal_neurons.plan.grid import BLOCK_BYTES, Grid, parse_layers

# Stored bytes per summed product, after compression; docs/performance.md.
SUM_BYTES = {"int8": 4.0, "bfloat16": 7.7, "float32": 7.7}

# Tokens that a tokenizer knows, about; embeddings and logits are as wide.
VOCABULARY = 50_000

# Kinds of classes whose sums are large: by token and by the one before. Stored bytes of one of
# their sums, and of one in all shards together, after compression; docs/performance.md.
LARGE_KINDS, CLASS_SUM_BYTES, GIVEN_SUM_BYTES = 2, 1.5, 2.0

# Numbers of other modules, which import too much to be asked here: tests/plan/test_cost.py holds
# them in step, and `grid.BLOCK_BYTES`.
# Tokens at a time of capture without stores, of influences and of ablation.
DIRECT_TOKENS, INFLUENCE_TOKENS, ABLATION_TOKENS = 8192, 2048, 1024
# Weights per block from which ablated passes are tried in bfloat16.
ABLATION_WEIGHTS = 1_000_000
# Entries of a head's queries and keys, in most models.
HEAD_WIDTH = 64
# Values of a model that influences are taken of at a time, where that is more tokens.
INFLUENCE_VALUES = 1 << 23
# Groups of sequences that influences are taken of.
INFLUENCE_GROUPS = 64
# Tokens that two untrained models are compared on, and the share that is compared permuted.
UNTRAINED_TOKENS, PERMUTED_SHARE = 65536, 0.1
# Width above which spectra are taken of layers of like depth only.
WIDE_LAYER = 1024
# What the screened mode refines at a time: tokens, and bytes of sums in full.
REFINE_TOKENS, REFINE_BYTES = 4096, 1 << 30
# Given a class of tokens: rotations of the baseline, and classes that are multiplied in float32.
GIVEN_DRAWS, GIVEN_FREQUENT = 2, 1024
# Of a neuron whose contexts are shown: how many there are, tokens of each, and of all the tokens
# that contexts are drawn from; the neurons that are no universal ones.
CONTEXTS, WINDOW, SAMPLE_TOKENS, OTHERS = 50, 16, 1 << 16, 100
# Token ids that neurons have sums of their own over.
MOST_TOKENS = 4096
# Operations that sums over classes take per activation, and moments and extremes per logit, by
# their time beside that of a product; stored bytes per neuron, of roles and families.
DESCRIBED_CLASSES, PER_LOGIT, DESCRIBED_BYTES = 1500, 5000, 600
# Share of the neurons that may be universal at some step, and operations that a chosen neuron's
# activation takes, by their time beside that of a product (docs/performance.md).
CHOSEN_SHARE, PER_ACTIVATION = 0.1, 4000


@dataclass(frozen=True)
class Sizes:
    """What the formulas share, of the grid's largest model."""

    grid: Grid

    @cached_property
    def shape(self) -> Shape:
        """Size of the largest model."""
        return self.grid.largest

    @property
    def models(self) -> int:
        """Number of models."""
        return len(self.grid.seeds) * len(self.grid.steps)

    @property
    def pairs(self) -> int:
        """Number of pairs of models."""
        return len(self.grid.pairs) * len(self.grid.steps)

    @cached_property
    def blocks(self) -> int:
        """Number of blocks of layers of all pairs."""
        of_a_step = sum(self.blocks_of(*pair) for pair in self.grid.pairs)
        return of_a_step * len(self.grid.steps)

    def blocks_of(self, seed: str, other_seed: str) -> int:
        """Number of blocks of layers of a pair."""
        return len(self.grid.layer_blocks(seed, other_seed))

    @cached_property
    def sum_blocks(self) -> int:
        """Number of blocks of layers that jobs make the sums of, of all pairs."""
        of_a_step = sum(len(self.grid.sum_blocks(*pair)) for pair in self.grid.pairs)
        return of_a_step * len(self.grid.steps)

    @cached_property
    def sum_layers(self) -> int:
        """Layers of the largest of those blocks."""
        return max(len(parse_layers(block)) for block in self.grid.sum_blocks(*self.grid.pairs[0]))

    @cached_property
    def layers(self) -> int:
        """Layers of the largest block."""
        return self.grid.layers_of_job(*self.grid.pairs[0])

    @property
    def scored(self) -> int:
        """Scored tokens."""
        return self.grid.config.corpus.tokens

    @property
    def classes(self) -> int:
        """Identities of tokens that occur among the scored ones, at most."""
        return min(self.grid.vocabulary or VOCABULARY, self.scored)

    @property
    def given(self) -> int:
        """Kinds of classes that correlations are conditioned by."""
        return len(self.grid.config.correlate.given)

    @property
    def given_rotations(self) -> int:
        """Rotations of their baselines."""
        return self.given * min(self.draws, GIVEN_DRAWS)

    @property
    def given_classes(self) -> int:
        """Their classes."""
        return sum(self._given_classes)

    @property
    def given_layer(self) -> dict[str, float]:
        """Operations of a layer and a model given them: rare ones have two int8 codes each."""
        int8 = self.products == "int8"
        rare = int8 * sum(max(0, classes - GIVEN_FREQUENT) for classes in self._given_classes)
        work = (self.given_classes - rare) * self.layer_products
        work += self.given_rotations * self.layer_rotation
        return {"float32": work, "int8": 3 * rare * self.layer_products}

    @property
    def measured_means(self) -> int:
        """Bytes of all seeds' class means, if tokens' part in errors given the token is measured.

        Where memory holds them (`correlate.memory_gb`), and all tokens that they are of are there.
        """
        config, grid = self.grid.config, self.grid
        means = 4 * self.classes * sum(shape.neurons for shape in grid.shapes.values())
        known = "token" in config.correlate.given and config.capture.store
        measured = known and list(grid.shards) == grid.measured_shards
        return means if measured and means <= 1e9 * config.correlate.memory_gb else 0

    @property
    def _given_classes(self) -> list[int]:
        positions = {"position": self.grid.config.corpus.context_length}
        kinds = self.grid.config.correlate.given
        return [positions.get(kind, self.classes) for kind in kinds]

    @property
    def class_sums(self) -> float:
        """Stored bytes of a model's sums over classes, of all shards."""
        groups = min(2 * self.classes, self.grid.shard_tokens())
        number = LARGE_KINDS * groups * self.shape.neurons * len(self.grid.shards)
        return CLASS_SUM_BYTES * number

    @cached_property
    def all_classes(self) -> float:
        """Bytes of the sums over classes of all models of a step, over a shard."""
        groups = LARGE_KINDS * min(2 * self.classes, self.grid.shard_tokens())
        groups += 2 * self.grid.config.corpus.context_length
        number = 4.0 if self.products == "int8" else 8.0
        return number * groups * sum(shape.neurons for shape in self.grid.shapes.values())

    @property
    def direct_classes(self) -> float:
        """Bytes of these that a job without stored activations holds: 0 if memory does not."""
        fits = self.all_classes <= 1e9 * self.grid.config.correlate.memory_gb
        return self.all_classes if fits else 0

    @property
    def direct_held(self) -> float:
        """Bytes of all sums that such a job holds."""
        return 1e9 * self.grid.config.correlate.memory_gb + self.direct_classes

    @property
    def has_classes(self) -> bool:
        """Whether there are sums over classes: else neither what they explain nor what is left."""
        return self.grid.config.capture.store or self.direct_classes > 0

    @property
    def layer_classes(self) -> int:
        """Bytes of a layer's sums over classes, in int32 or float32."""
        return 4 * self.classes * self.shape.d_mlp

    @property
    def draws(self) -> int:
        """Rotations of a layer."""
        return self.grid.config.baseline.draws

    @property
    def products(self) -> str:
        """Rate that products of codes run at."""
        return "int8" if self.grid.config.capture.encoding == "int8" else "float32"

    @property
    def layer_products(self) -> float:
        """Operations per token of a layer with a model, or of a model's layers with themselves."""
        return 2.0 * self.shape.d_mlp * self.shape.neurons

    @property
    def pair(self) -> float:
        """Operations of comparing all neurons of two models on all tokens."""
        return 2.0 * self.scored * self.shape.neurons**2

    @property
    def cube(self) -> float:
        """A matrix of a layer times another, half its operations."""
        return float(self.shape.d_mlp) ** 3

    @property
    def layer_rotation(self) -> float:
        """Operations of one layer's best matches in a model rotated once, both ways."""
        return 4 * self.shape.n_layers * self.cube

    @property
    def layer_baseline(self) -> float:
        """Operations of one layer's rotated best matches in a model, both ways."""
        return self.draws * self.layer_rotation

    @property
    def square(self) -> int:
        """Bytes of the sums of a layer with a layer."""
        return 8 * self.shape.d_mlp**2

    @property
    def layer_sums(self) -> int:
        """Bytes of the sums of a layer with a model."""
        return 8 * self.shape.d_mlp * self.shape.neurons

    @property
    def weights(self) -> float:
        """Bytes of a model in float32: blocks and embedding."""
        width = self.shape.d_mlp / 4
        return 4 * (12 * self.shape.n_layers * width**2 + VOCABULARY * width)

    @property
    def head(self) -> float:
        """Operations of a token's logits."""
        return 2 * (self.grid.vocabulary or VOCABULARY) * self.shape.d_mlp / 4

    @property
    def mediated(self) -> float:
        """Share of the held-out text that `mediate` reads."""
        config = self.grid.config
        return min(1, config.ablation.mediation_tokens / config.corpus.heldout_tokens)

    @property
    def ablated(self) -> str:
        """Rate of ablated passes, ``differences`` where they multiply in bfloat16 if that pays."""
        config = self.grid.config
        weights = self.grid.forward_operations() / 2 / self.shape.n_layers
        tried = {"auto": weights >= ABLATION_WEIGHTS, "bfloat16": True, "float32": False}
        exact = config.capture.dtype == "float32"
        return "differences" if exact and tried[config.ablation.dtype] else "model"

    @property
    def heldout_batch(self) -> float:
        """Bytes of a batch of held-out text: activations and gradients, logits, and attention.

        What all tokens of a sequence attend to is kept for ablated passes of differences, in two
        bytes, by heads as wide as most models'.
        """
        length = self.grid.config.corpus.context_length
        tokens = max(ABLATION_TOKENS, length)
        vocabulary = self.grid.vocabulary or VOCABULARY
        heads = self.shape.neurons / 4 / HEAD_WIDTH
        attended = 2 * length * heads if self.ablated == "differences" else 0
        return tokens * (4 * (8 * self.shape.neurons + 6 * vocabulary) + attended)

    @property
    def wide(self) -> int:
        """Bytes of a code in memory."""
        return 1 if self.products == "int8" else 4

    @property
    def buffer(self) -> int:
        """Bytes of two buffers of a layer's codes."""
        return 2 * self.wide * BLOCK_BYTES

    @property
    def buffers(self) -> int:
        """Bytes of two buffers per model and of the int32 product."""
        return 2 * self.buffer + self.square

    @property
    def sum_bytes(self) -> float:
        """Stored bytes of one sum, in all shards."""
        return SUM_BYTES[self.grid.config.capture.encoding] * len(self.grid.shards)

    @property
    def within_sums(self) -> float:
        """Stored bytes of a model's sums within its layers, of all shards."""
        return self.sum_bytes * self.shape.d_mlp * self.shape.neurons

    @property
    def kept_sums(self) -> bool:
        """Whether partial sums stay, but those within layers, which always do."""
        return self.grid.config.correlate.keep_sums

    @property
    def chosen(self) -> float:
        """Neurons of a model whose contexts are shown, about."""
        which, neurons = self.grid.config.explorer.neurons, self.shape.neurons
        wanted = {"universal": CHOSEN_SHARE * neurons, "all": neurons}.get(str(which))
        return min(neurons, OTHERS + (float(which) if wanted is None else wanted))

    @property
    def described(self) -> int:
        """Tokens that neurons are described on."""
        return self.grid.described_sequences() * self.grid.config.corpus.context_length

    @property
    def describing(self) -> dict[str, float]:
        """Operations of a model's roles and families, by their rate."""
        classes = DESCRIBED_CLASSES * self.described * self.shape.neurons
        directions = self.shape.neurons + self.grid.config.roles.draws
        # Of a width of a quarter of the neurons of a layer.
        logit = self.shape.d_mlp / 2 + PER_LOGIT
        logits = logit * (self.grid.vocabulary or VOCABULARY) * directions
        model = self.described * self.grid.forward_operations()
        return {"model": model, "float32": classes + logits}

    @property
    def described_sums(self) -> int:
        """Bytes of sums over tokens and previous ones, and of numbers of positive activations."""
        return 3 * 4 * min(self.classes, MOST_TOKENS) * self.shape.neurons

    @property
    def descriptions(self) -> int:
        """Stored bytes of all roles and families."""
        return DESCRIBED_BYTES * self.models * self.shape.neurons

    @property
    def random_layers(self) -> int:
        """Layers of a model with its random neurons."""
        return (1 + self.grid.config.nulls.random_directions.draws) * self.shape.n_layers

    @property
    def random_work(self) -> dict[str, float]:
        """Operations of a step's matches among random directions, by their rate."""
        draws = self.grid.config.nulls.random_directions.draws
        tokens = self.grid.sequences_of_directions() * self.grid.config.corpus.context_length
        # Reading random inputs takes a third of a block: one of the MLP's two matrices, of three.
        n, pairs = len(self.grid.seeds), len(self.grid.pairs)
        model = n * self.grid.forward_operations() * (2 + draws / 3)
        products = pairs * self.pair / self.scored * 2 * draws
        products += n * (1 + draws) * self.layer_products
        # One direction of the rotated best matches, and the spread of the random neurons.
        spread = n * 2 * self.draws * self.cube
        rotated = draws * self.shape.n_layers * (pairs * self.layer_baseline + spread)
        work = {"model": tokens * model, "float32": rotated}
        work[self.products] = work.get(self.products, 0) + tokens * products
        return work
