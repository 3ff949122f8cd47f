from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import concatenate_tables

with job(snakemake.log[0]):
    about = provenance(snakemake.config)
    concatenate_tables(snakemake.input, snakemake.output, about, snakemake.params.seeds)
