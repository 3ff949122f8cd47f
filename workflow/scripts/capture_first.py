from universal_neurons.capture.run import Cell, capture_first
from universal_neurons.jobs import job
from universal_neurons.prepare.reading import Corpus

with job(snakemake.log[0]):
    given, made, params = snakemake.input, snakemake.output, snakemake.params
    corpus = Corpus(given.tokens, given.about, given.get("subsets", ""), given.clusters)
    seed, step = snakemake.wildcards.seed, snakemake.wildcards.step
    [cell] = Cell.of(snakemake.config, [seed], step, given.model, corpus, params.capture)
    capture_first(cell, params.sequences, **made)
