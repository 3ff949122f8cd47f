from universal_neurons.describe.vocabulary import vocabularies
from universal_neurons.jobs import job
from universal_neurons.plan.grid import tokenizer_directories
from universal_neurons.prepare.tokens import read_facts
from universal_neurons.store.columns.examples import VOCABULARY
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    directories = tokenizer_directories(snakemake.config, snakemake.input.tokenizer)
    rows = vocabularies(directories, read_facts(snakemake.input.about), snakemake.params.size)
    write_table(snakemake.output[0], VOCABULARY, rows, provenance(snakemake.config, "examples"))
