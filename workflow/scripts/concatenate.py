from universal_neurons.jobs import job
from universal_neurons.store import provenance
from universal_neurons.tables import concatenate_tables

with job(snakemake.log[0]):
    concatenate_tables(snakemake.input, snakemake.output[0], provenance(snakemake.config))
