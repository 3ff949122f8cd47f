from universal_neurons.jobs import job
from universal_neurons.prepare import corpus
from universal_neurons.prepare.tokens import read_facts
from universal_neurons.store.files import write_json

with job(snakemake.log[0]):
    selection = corpus.select(read_facts(snakemake.input[0]), **snakemake.params)
    write_json(snakemake.output[0], selection)
