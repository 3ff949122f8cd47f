from pathlib import Path

from universal_neurons.jobs import job
from universal_neurons.plan.grid import tokenizer_directory
from universal_neurons.prepare import corpus
from universal_neurons.store.files import write_json

with job(snakemake.log[0]):
    directory = Path(*snakemake.input.tokenizer or [tokenizer_directory(snakemake.config)])
    made = snakemake.output
    files = made.tokens, made.clusters, made.get("subsets")
    about = corpus.make(snakemake.params.corpus, directory, *files)
    write_json(made.about, about)
