from universal_neurons.jobs import job
from universal_neurons.score import describe
from universal_neurons.store.columns.describe import MODELS
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import read_table, write_table

with job(snakemake.log[0]):
    ablation = read_table(snakemake.input.ablation)
    table = describe.models_table(snakemake.input.models, ablation)
    about = provenance(snakemake.config)
    write_table(snakemake.output[0], MODELS, table, about, snakemake.params.seeds)
