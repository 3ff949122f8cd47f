from pathlib import Path

import numpy as np

from universal_neurons.capture.run import CaptureOptions
from universal_neurons.jobs import job
from universal_neurons.prepare import tokens as corpus
from universal_neurons.score.untrained import untrained_scores
from universal_neurons.store.files import read_json
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    given, params = snakemake.input, snakemake.params
    about, made = read_json(given.about), snakemake.output[0]
    tokens = np.load(given.tokens, mmap_mode="r")
    corpus.check_digest(tokens, about)
    scores = untrained_scores(
        given.model,
        tokens,
        exclude=corpus.excluded(params.capture["exclude_token_ids"], about),
        options=CaptureOptions(**params.capture),
        rotations=given.rotations,
        draws=params.draws,
        kernel=params.kernel,
        room=Path(made).parent,
    )
    write_table(made, scores, provenance(snakemake.config, "untrained"))
