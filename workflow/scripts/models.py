from universal_neurons.jobs import job
from universal_neurons.score import describe
from universal_neurons.store.columns.describe import MODELS
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    given, seeds = snakemake.input, snakemake.params.seeds
    table = describe.models_table(given.models, given.losses)
    write_table(snakemake.output[0], MODELS, table, provenance(snakemake.config), seeds)
