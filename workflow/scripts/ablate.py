import numpy as np

from universal_neurons.ablate.interventions import intervene
from universal_neurons.jobs import job
from universal_neurons.store.files import read_json
from universal_neurons.store.provenance import provenance
from universal_neurons.store.same_run import check_same_run
from universal_neurons.store.tables import read_table, write_table

with job(snakemake.log[0]):
    given, wildcards = snakemake.input, snakemake.wildcards
    check_same_run(given.moments)
    selection = read_json(given.selection)
    heldout = slice(selection["heldout_start"], selection["heldout_stop"])
    tables = intervene(
        dict(zip(wildcards.seeds.split("+"), given.models, strict=True)),
        np.load(given.tokens, mmap_mode="r")[heldout],
        step=int(wildcards.step),
        universality=read_table(given.universality),
        moment_stores=given.moments,
        load_options=snakemake.params.load,
        options=snakemake.params.ablation,
    )
    about = provenance(snakemake.config, "ablate")
    for name, table in tables.items():
        write_table(snakemake.output[name], table, about)
