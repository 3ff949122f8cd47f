from universal_neurons.jobs import job
from universal_neurons.plan.grid import tokenizer_directories
from universal_neurons.prepare import corpus
from universal_neurons.store.files import write_json

with job(snakemake.log[0]):
    directories = tokenizer_directories(snakemake.config, snakemake.input.tokenizer)
    made, params = snakemake.output, snakemake.params
    files = made.tokens, made.clusters, made.get("subsets")
    about = corpus.make(params.corpus, directories, *files, params.get("vocabulary", 0))
    write_json(made.about, about)
