from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import concatenate_tables

with job(snakemake.log[0]):
    concatenate_tables(snakemake.input, snakemake.output, provenance(snakemake.config))
