from universal_neurons import universality
from universal_neurons.jobs import job
from universal_neurons.store import check_same_run, provenance
from universal_neurons.tables import write_table

with job(snakemake.log[0]):
    check_same_run(snakemake.input)
    table = universality.neurons_table(snakemake.input)
    write_table(snakemake.output[0], table, provenance(snakemake.config))
