import json
from pathlib import Path

import numpy as np
import pandas as pd

from universal_neurons import ablation, models, moments
from universal_neurons.jobs import job
from universal_neurons.store import provenance, read_arrays
from universal_neurons.tables import write_table

with job(snakemake.log[0]):
    given, options, seed = snakemake.input, snakemake.params.ablation, snakemake.wildcards.seed
    selection = json.loads(Path(given.selection).read_text())
    heldout = slice(selection["heldout_start"], selection["heldout_stop"])
    sums = moments.merge(map(read_arrays, given.moments))
    scores = pd.read_parquet(given.universality, filters=[("seed", "==", seed)])
    table = ablation.ablate(
        models.load(given.model, **snakemake.params.load),
        np.load(given.tokens, mmap_mode="r")[heldout],
        seed=seed,
        step=int(snakemake.wildcards.step),
        universal=scores.sort_values(["layer", "neuron"])["universal"].to_numpy(),
        mean=moments.moments(sums)["mean"],
        norm=moments.rms(sums),
        kinds=options["kinds"],
        controls=options["controls"],
        random_seed=options["seed"],
    )
    write_table(snakemake.output[0], table, provenance(snakemake.config))
