"""The jobs of a capture: load a model, fix its codes or read them, and store one shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.calibration import (
    Calibration,
    read_calibration,
    write_calibration,
)
from universal_neurons.activations.class_sums import class_sums, groups_of
from universal_neurons.activations.products import within_sums
from universal_neurons.activations.reader import Activations
from universal_neurons.capture.capture import Encoder, calibrate, capture, warn_of_escapes
from universal_neurons.errors import UserError
from universal_neurons.jobs import logger
from universal_neurons.models import hub
from universal_neurons.models.facts import write_facts
from universal_neurons.models.forward import parts_of, scored
from universal_neurons.models.load import Model, load
from universal_neurons.prepare.corpus import LEAST_TOKENS, select, selection_options
from universal_neurons.prepare.reading import Corpus
from universal_neurons.prepare.tokenizer import check_tokenizer
from universal_neurons.store.arrays import write_arrays
from universal_neurons.store.place import check_model
from universal_neurons.store.provenance import provenance


@dataclass(frozen=True)
class CaptureOptions:
    """What codes depend on of a configuration, and `batch_tokens`, on which they don't."""

    encoding: str
    dtype: str
    device: str
    calibration_tokens: int
    headroom: float
    exclude_token_ids: Sequence[int] | str
    batch_tokens: int
    exclude_positions: Sequence[int] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], options: Mapping[str, Any]) -> CaptureOptions:
        """With the options that a job is remade for, and the others of a resolved configuration."""
        return cls(**options, batch_tokens=config["capture"]["batch_tokens"])


@dataclass(frozen=True)
class Cell:
    """One (seed, step) of a run: what loading it and its corpus takes.

    Attributes
    ----------
    seed, step
        The model's names.
    directory
        Where it is.
    source
        Where its directory is from (``models.source``).
    corpus
        What it is run over.
    options
        How to capture it.
    selection
        What `corpus.select` checks: as `corpus.selection_options` returns it.
    provenance
        Recorded with all stores.
    """

    seed: str
    step: int
    directory: str | Path
    source: str
    corpus: Corpus
    options: CaptureOptions
    selection: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        seeds: Sequence[str],
        step: str | int,
        directories: Sequence[str | Path],
        corpus: Corpus,
        options: Mapping[str, Any],
    ) -> list[Cell]:
        """Seeds at a step of a resolved configuration; `options` as of `CaptureOptions.of`."""
        about = provenance(config, "corpus", "capture")
        source, selection = config["models"]["source"], selection_options(config)
        chosen = CaptureOptions.of(config, options)
        return [
            cls(seed, int(step), directory, source, corpus.of_seed(seed), chosen, selection, about)
            for seed, directory in zip(seeds, directories, strict=True)
        ]

    @cached_property
    def tokens(self) -> NDArray[np.integer]:
        """All sequences of the corpus.

        Raises
        ------
        UserError
            If they are damaged, or too few, or of another tokenizer than the model's.
        """
        tokens = self.corpus.sequences
        select(self.corpus.facts, **self.selection)
        check_tokenizer(Path(self.directory), self.corpus.facts)
        return tokens

    @cached_property
    def n_scored(self) -> int:
        """Number of scored sequences, the first ones."""
        return select(self.corpus.facts, **self.selection)["n_scored"]

    @property
    def sample(self) -> NDArray[np.integer]:
        """The sequences that fix the codes: the first scored ones, never a held-out one."""
        wanted = -(-self.options.calibration_tokens // self.tokens.shape[1])
        if wanted > self.n_scored:
            logger.info(
                "capture.calibration_tokens: all %d scored tokens fix the codes, as corpus.tokens "
                "asks for no more (%d were wanted)",
                *(self.n_scored * self.tokens.shape[1], self.options.calibration_tokens),
            )
        return self.tokens[: min(wanted, self.n_scored)]

    @cached_property
    def exclude(self) -> list[int]:
        """Token ids that are not scored."""
        return self.corpus.excluded(self.options.exclude_token_ids)

    @cached_property
    def model(self) -> Model:
        """The loaded model.

        Raises
        ------
        UserError
            If the workflow made it for another seed or step, or see `models.load.load`.
        """
        if self.source != "local":  # where users may call their models what they like
            check_model(self.directory)
        return load(self.directory, dtype=self.options.dtype, device=self.options.device)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Recorded with all its stores."""
        return {
            **self.provenance,
            "seed": self.seed,
            "step": self.step,
            "corpus_sha256": self.corpus.facts["sha256"],
            "model_sha256": self.model.digest(),
            "exclude": self.exclude,
            "exclude_positions": list(self.options.exclude_positions),
            "encoding": self.options.encoding,
        }

    def encoder(self, calibration: Sequence[Calibration]) -> Encoder:
        """How its activations become codes."""
        return Encoder(
            self.seed,
            self.step,
            calibration,
            self.options.encoding,
            self.exclude,
            self.options.batch_tokens,
            self.corpus.labels,
            self.options.exclude_positions,
            self.corpus.first_id,
        )


def fix_codes(cell: Cell, *, calibration: str | Path, facts: str | Path) -> None:
    """Calibrate a model and store that, with what is known of the model.

    Parameters
    ----------
    cell
        The model.
    calibration
        Store to make.
    facts
        JSON file to make: digest and size of the model.

    Raises
    ------
    UserError
        If fewer than `corpus.LEAST_TOKENS` are scored, or of `capture.calibrate` and `models.load`.
    """
    _check_scored(cell)
    layers = calibrate(
        cell.model,
        cell.sample,
        name=f"seed {cell.seed}, step {cell.step}",
        exclude=cell.exclude,
        encoding=cell.options.encoding,
        headroom=cell.options.headroom,
        batch_tokens=cell.options.batch_tokens,
        positions=cell.options.exclude_positions,
    )
    write_calibration(calibration, layers, cell.attributes)
    about = {
        "run": cell.provenance["run"],
        "seed": cell.seed,
        "step": cell.step,
        "source": cell.source,
        "directory": str(cell.directory),
        "dtype": cell.options.dtype,
        "revision": hub.commit(str(cell.directory)),
        "sha256": cell.attributes["model_sha256"],
        "n_layers": len(cell.model.d_mlp),
        "d_mlp": cell.model.d_mlp[0],
    }
    write_facts(facts, about)


def _check_scored(cell: Cell) -> None:
    found = 0
    for part in parts_of(cell.tokens[: cell.n_scored]):
        found += int(scored(part, cell.exclude, cell.options.exclude_positions).sum())
        if found >= LEAST_TOKENS:
            return
    raise UserError(
        f"corpus.exclude_token_ids: only {found} tokens are scored, too few to correlate; exclude "
        "fewer (and fewer of corpus.exclude_positions), or raise corpus.tokens, until "
        f"{LEAST_TOKENS} are left"
    )


def restore(
    cell: Cell, sequences: tuple[int, int], *, calibration: str | Path, activations: str | Path
) -> None:
    """Store the activations of one shard, whose sums are there already.

    Parameters
    ----------
    cell
        The model.
    sequences
        First sequence of the shard and the one after its last.
    calibration
        The model's.
    activations
        Store to make.

    Raises
    ------
    UserError
        See `capture.capture` and `Cell.tokens`.
    """
    tokens, encoder = cell.tokens, cell.encoder(read_calibration(calibration))
    capture(cell.model, tokens, sequences, encoder, activations, attributes=cell.attributes)


def capture_shard(
    cell: Cell,
    sequences: tuple[int, int],
    *,
    calibration: str | Path,
    activations: str | Path,
    moments: str | Path,
    within: str | Path,
    classes: str | Path,
) -> None:
    """Store the activations, moments, within-layer sums and sums over classes of one shard.

    Parameters
    ----------
    cell, sequences, calibration
        See `restore`.
    activations, moments, within, classes
        Stores to make; see `products.within_sums` and `class_sums.class_sums`.

    Raises
    ------
    UserError
        See `restore`.
    """
    tokens, encoder = cell.tokens, cell.encoder(read_calibration(calibration))
    about = cell.attributes
    sums = capture(cell.model, tokens, sequences, encoder, activations, moments, attributes=about)
    warn_of_escapes(encoder.name, sums, cell.model.d_mlp)
    store = Activations(activations)
    write_arrays(within, within_sums(store, device=str(cell.model.device)), about)
    groups = groups_of(tokens, cell.corpus.identity, cell.corpus.halves, store.token_index())
    write_arrays(classes, class_sums(store, groups), {**about, "sequences": list(sequences)})


def capture_first(
    cell: Cell,
    sequences: tuple[int, int],
    *,
    calibration: str | Path,
    facts: str | Path,
    activations: str | Path,
    moments: str | Path,
    within: str | Path,
    classes: str | Path,
) -> None:
    """Fix a model's codes and store its first shard: `fix_codes`, then `capture_shard`."""
    fix_codes(cell, calibration=calibration, facts=facts)
    capture_shard(
        cell,
        sequences,
        calibration=calibration,
        activations=activations,
        moments=moments,
        within=within,
        classes=classes,
    )


def capture_sample(
    model: Model,
    tokens: NDArray[np.integer],
    name: tuple[str, int],
    exclude: Sequence[int],
    options: CaptureOptions,
    where: Path,
    attributes: Mapping[str, Any],
) -> None:
    """Store a model's calibration, activations, moments and within-layer sums over some tokens.

    Parameters
    ----------
    model
        The model.
    tokens
        Sequences, of which the first fix the codes.
    name
        Its seed and step.
    exclude
        Token ids that are not scored.
    options
        How to capture it.
    where
        Folder of the stores: ``calibration.zarr, activations.zarr, moments.zarr, within.zarr``.
    attributes
        Recorded with them.
    """
    seed, step = name
    calibration = calibrate(
        model,
        tokens[: -(-options.calibration_tokens // tokens.shape[1])],
        name=f"seed {seed}, step {step}",
        exclude=exclude,
        encoding=options.encoding,
        headroom=options.headroom,
        batch_tokens=options.batch_tokens,
        positions=options.exclude_positions,
    )
    write_calibration(where / "calibration.zarr", calibration, attributes)
    encoder = Encoder(
        seed,
        step,
        calibration,
        options.encoding,
        exclude,
        options.batch_tokens,
        positions=options.exclude_positions,
    )
    activations, moments = where / "activations.zarr", where / "moments.zarr"
    sequences = (0, len(tokens))
    capture(model, tokens, sequences, encoder, activations, moments, attributes=attributes)
    write_arrays(where / "within.zarr", within_sums(Activations(activations)), attributes)
