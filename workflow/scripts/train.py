from pathlib import Path

import numpy as np

from universal_neurons.jobs import job
from universal_neurons.prepare import corpus, training
from universal_neurons.prepare import tokens as tokens_module
from universal_neurons.store.files import read_json

with job(snakemake.log[0]):
    about = read_json(snakemake.input.about)
    # The numbers of tokens are checked, but the training does not depend on them.
    selection = corpus.select(about, **corpus.selection_options(snakemake.config))
    tokens = np.load(snakemake.input.tokens, mmap_mode="r")
    tokens_module.check_digest(tokens, about)
    training.train(
        tokens[: selection["n_train"]],
        seed=snakemake.wildcards.seed,
        steps=snakemake.params.steps,
        options=snakemake.params.options,
        tokenizer=Path(snakemake.input.tokenizer),
        work_dir=Path(snakemake.params.work),
        outputs=dict(zip(snakemake.params.steps, map(Path, snakemake.output), strict=True)),
    )
