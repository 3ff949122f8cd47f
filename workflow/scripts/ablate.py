import numpy as np

from universal_neurons import ablation
from universal_neurons.jobs import job
from universal_neurons.store import check_same_run, provenance, read_json
from universal_neurons.tables import read_table, write_table

with job(snakemake.log[0]):
    given, wildcards = snakemake.input, snakemake.wildcards
    check_same_run(given.moments)
    selection = read_json(given.selection)
    heldout = slice(selection["heldout_start"], selection["heldout_stop"])
    table = ablation.ablate_models(
        dict(zip(wildcards.seeds.split("+"), given.models, strict=True)),
        np.load(given.tokens, mmap_mode="r")[heldout],
        step=int(wildcards.step),
        universality=read_table(given.universality),
        moment_stores=given.moments,
        load_options=snakemake.params.load,
        options=snakemake.params.ablation,
    )
    write_table(snakemake.output[0], table, provenance(snakemake.config, "ablate"))
