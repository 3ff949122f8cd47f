"""A resolved configuration as typed values, one class per section.

Keys, defaults and meanings are those of ``config.schema.yaml``; a test holds the names together.
There are no defaults here: `config.resolve` has filled them in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Train:
    """Section ``models.train``."""

    vocab_size: int
    layers: int
    width: int
    heads: int
    d_mlp: int
    activation: str
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    batch_size: int
    total_steps: int
    threads: int


@dataclass(frozen=True)
class Models:
    """Section ``models``: seeds are text, steps ascending."""

    source: str
    seeds: list[str]
    steps: list[int]
    path: str
    paths: Mapping[str, Mapping[str, str]]
    tokenizer: str | None
    repo: str
    revision: str
    revisions: Mapping[str, Mapping[str, Mapping[str, str]]]
    prune_cache: bool
    train: Train


@dataclass(frozen=True)
class Corpus:
    """Section ``corpus``."""

    source: str
    dataset: str | Mapping[str, str] | None
    name: str | None
    revision: str
    split: str
    shuffle_buffer: int
    stream_tokens: int | None
    path: str | list[str] | Mapping[str, str | list[str]] | None
    text_key: str
    subset_key: str | None
    tokens: int
    heldout_tokens: int
    context_length: int
    exclude_token_ids: str | list[int]
    exclude_positions: list[int]
    align: str
    shards: int
    seed: int

    @property
    def has_subsets(self) -> bool:
        """Whether the texts are of named subsets."""
        several = self.dataset if self.source == "hub" else self.path
        return self.subset_key is not None or isinstance(several, Mapping)


@dataclass(frozen=True)
class Capture:
    """Section ``capture``."""

    encoding: str
    dtype: str
    device: str
    store: bool
    keep: bool
    calibration_tokens: int
    headroom: float
    batch_tokens: int


@dataclass(frozen=True)
class Correlate:
    """Section ``correlate``."""

    mode: str
    sample: float
    candidates: int
    memory_gb: float
    keep_sums: bool
    kernel: str
    device: str
    similarity: bool
    given: list[str]


@dataclass(frozen=True)
class Baseline:
    """Section ``baseline``."""

    draws: int
    seed: int
    standardise: bool


@dataclass(frozen=True)
class RandomDirections:
    """Section ``nulls.random_directions``."""

    draws: int
    tokens: int
    seed: int


@dataclass(frozen=True)
class Nulls:
    """Section ``nulls``."""

    random_directions: RandomDirections


@dataclass(frozen=True)
class Universality:
    """Section ``universality``."""

    criterion: str
    excess_threshold: float
    false_discovery_rate: float


@dataclass(frozen=True)
class Persistence:
    """Section ``persistence``."""

    trace_tokens: int
    exit_threshold: float | None


@dataclass(frozen=True)
class Ablation:
    """Section ``ablation``."""

    kinds: list[str]
    controls: int
    seed: int
    dtype: str
    target_se: float | None
    mediation_tokens: int


@dataclass(frozen=True)
class Roles:
    """Section ``roles``."""

    kurtosis: float
    partition_variance: float
    entropy_layers: int
    entropy_variance: float
    entropy_kurtosis: float
    entropy_penalty: float
    null_space: float
    frequency_cos: float
    attention_cos: float
    false_discovery_rate: float
    draws: int
    seed: int


@dataclass(frozen=True)
class Families:
    """Section ``families``."""

    unigram: float
    letter: float
    other: float
    ngram_tokens: int
    speech: str | None


@dataclass(frozen=True)
class Explorer:
    """Section ``explorer``."""

    neurons: str | int
    tokens: int
    seed: int


@dataclass(frozen=True)
class Config:
    """A resolved configuration."""

    run: str
    models: Models
    corpus: Corpus
    capture: Capture
    correlate: Correlate
    baseline: Baseline
    nulls: Nulls
    universality: Universality
    persistence: Persistence
    ablation: Ablation
    roles: Roles
    families: Families
    explorer: Explorer

    @classmethod
    def of(cls, resolved: Mapping[str, Any]) -> Config:
        """The typed form of what `config.resolve` returns."""
        models = resolved["models"]
        return cls(
            run=resolved["run"],
            models=Models(**{**models, "train": Train(**models["train"])}),
            corpus=Corpus(**resolved["corpus"]),
            capture=Capture(**resolved["capture"]),
            correlate=Correlate(**resolved["correlate"]),
            baseline=Baseline(**resolved["baseline"]),
            nulls=Nulls(RandomDirections(**resolved["nulls"]["random_directions"])),
            universality=Universality(**resolved["universality"]),
            persistence=Persistence(**resolved["persistence"]),
            ablation=Ablation(**resolved["ablation"]),
            roles=Roles(**resolved["roles"]),
            families=Families(**resolved["families"]),
            explorer=Explorer(**resolved["explorer"]),
        )
