import json
from pathlib import Path

import numpy as np
import pandas as pd

from universal_neurons import ablation
from universal_neurons.jobs import job
from universal_neurons.store import provenance
from universal_neurons.tables import write_table

with job(snakemake.log[0]):
    given, wildcards = snakemake.input, snakemake.wildcards
    selection = json.loads(Path(given.selection).read_text())
    heldout = slice(selection["heldout_start"], selection["heldout_stop"])
    table = ablation.ablate_models(
        dict(zip(wildcards.seeds.split("+"), given.models, strict=True)),
        np.load(given.tokens, mmap_mode="r")[heldout],
        step=int(wildcards.step),
        universality=pd.read_parquet(given.universality),
        moment_stores=given.moments,
        load_options=snakemake.params.load,
        options=snakemake.params.ablation,
    )
    write_table(snakemake.output[0], table, provenance(snakemake.config))
