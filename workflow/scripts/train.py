import json
from pathlib import Path

import numpy as np

from universal_neurons import training
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    selection = json.loads(Path(snakemake.input.selection).read_text())
    training.train(
        np.load(snakemake.input.tokens, mmap_mode="r")[: selection["n_train"]],
        seed=snakemake.wildcards.seed,
        steps=snakemake.params.steps,
        options=snakemake.params.options,
        tokenizer=Path(snakemake.input.tokenizer),
        work_dir=Path(snakemake.params.work),
        outputs=dict(zip(snakemake.params.steps, map(Path, snakemake.output), strict=True)),
    )
