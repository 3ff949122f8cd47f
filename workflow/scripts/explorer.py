from universal_neurons.explorer.site import write_explorer
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    given = snakemake.input
    write_explorer(snakemake.output[0], given.tables, given.about, snakemake.config)
