from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import concatenate_tables

with job(snakemake.log[0]):
    made = snakemake.output
    # Parts are ordered by table.
    n = len(snakemake.input) // len(made)
    for i, path in enumerate(made):
        parts = snakemake.input[i * n : (i + 1) * n]
        concatenate_tables(parts, path, provenance(snakemake.config))
