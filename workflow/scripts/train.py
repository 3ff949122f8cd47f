from pathlib import Path

from universal_neurons.jobs import job
from universal_neurons.prepare.corpus import selection_options
from universal_neurons.prepare.reading import Corpus
from universal_neurons.prepare.training import train

with job(snakemake.log[0]):
    given, params, seed = snakemake.input, snakemake.params, snakemake.wildcards.seed
    corpus = Corpus(given.tokens, given.about)
    sequences = corpus.for_training(**selection_options(snakemake.config))
    outputs = dict(zip(params.steps, map(Path, snakemake.output), strict=True))
    train(sequences, seed=seed, tokenizer=Path(given.tokenizer), outputs=outputs, **params)
