from universal_neurons.capture.direct import Step, sum_more_layers
from universal_neurons.capture.run import Cell
from universal_neurons.jobs import job
from universal_neurons.prepare.reading import Corpus

with job(snakemake.log[0]):
    given, made, params = snakemake.input, snakemake.output, snakemake.params
    corpus = Corpus(given.tokens, given.about, given.get("subsets", ""))
    step, options = snakemake.wildcards.step, params.capture
    cells = Cell.of(snakemake.config, params.seeds, step, given.model, corpus, options)
    work = Step(cells, params.sequences, params.pairs, params.layers, params.kernel)
    sum_more_layers(work, calibration=given.calibration, **made)
