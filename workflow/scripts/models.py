from universal_neurons import universality
from universal_neurons.jobs import job
from universal_neurons.store import provenance
from universal_neurons.tables import read_table, write_table

with job(snakemake.log[0]):
    ablation = read_table(snakemake.input.ablation)
    table = universality.models_table(snakemake.input.models, ablation)
    write_table(snakemake.output[0], table, provenance(snakemake.config))
