"""What two models of the run's architecture match before any training."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from universal_neurons.activations.moments import effective_tokens
from universal_neurons.activations.products import sum_pair
from universal_neurons.activations.reader import Activations
from universal_neurons.capture.run import CaptureOptions, capture_sample
from universal_neurons.correlate.match import match_pair
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.rotations import Rotating, write_rotated_std
from universal_neurons.models import load as models
from universal_neurons.prepare.reading import Corpus
from universal_neurons.score.nulls import with_strata
from universal_neurons.score.universality import matches_table, universality_table

SEEDS = ("untrained 0", "untrained 1")

# Tokens to run them over: enough that noise is small beside what they share.
TOKENS = 65536


def untrained_scores(
    model: str | Path,
    corpus: Corpus,
    options: CaptureOptions,
    *,
    rotations: str | Path,
    rotating: Rotating,
    kernel: str,
    room: str | Path,
) -> pd.DataFrame:
    """Score the neurons of two models with random weights, as those of a run.

    Parameters
    ----------
    model
        A model directory, whose architecture and initialisation they have.
    corpus
        The run's, of which the first `TOKENS` tokens are used.
    options
        How to capture them.
    rotations, rotating
        The run's rotations, and how neurons are rotated.
    kernel
        See `kernels.choose_kernel`.
    room
        Folder for what is removed at the end: the activations of both models, and one layer's sums.

    Returns
    -------
    DataFrame
        `columns.score.UNTRAINED`.
    """
    tokens = corpus.sequences
    tokens = tokens[: -(-TOKENS // tokens.shape[1])]
    exclude = corpus.excluded(options.exclude_token_ids)
    with TemporaryDirectory(dir=room, prefix=".untrained-") as name:
        folders = [Path(name, seed) for seed in SEEDS]
        for i, (seed, where) in enumerate(zip(SEEDS, folders, strict=True)):
            capture_sample(
                models.untrained(model, i, dtype=options.dtype, device=options.device),
                tokens,
                (seed, 0),
                exclude,
                options,
                where,
                {"corpus_sha256": ""},
            )
            write_rotated_std(
                where / "rotated.zarr",
                sums=[where / "moments.zarr"],
                within=[where / "within.zarr"],
                calibration=where / "calibration.zarr",
                rotations=rotations,
                rotating=rotating,
                attributes={},
            )
        a, b = (
            Captured(
                [where / "moments.zarr"], where / "calibration.zarr", rotated=where / "rotated.zarr"
            )
            for where in folders
        )
        one, other = (where / "activations.zarr" for where in folders)
        parts = []
        for layer in range(len(Activations(one).d_mlp)):
            # One layer after the other, in the same place: the sums of all are large.
            sums = Path(name, "sums.zarr")
            sum_pair(one, other, [layer], kernel, path=sums, attributes={})
            parts.append(Path(name, f"matches{layer}.zarr"))
            match_pair([sums], a, b, [layer], rotations=rotations, path=parts[-1], attributes={})
        scores = universality_table(matches_table(StepMatches.read(parts), step=0))
        return with_strata(scores, effective_tokens([x.moments[0] for x in (a, b)]))
