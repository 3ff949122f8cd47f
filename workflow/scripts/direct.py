from universal_neurons.capture.direct import Step, sum_shard
from universal_neurons.capture.run import Cell
from universal_neurons.jobs import job
from universal_neurons.prepare.reading import Corpus

with job(snakemake.log[0]):
    given, made, params = snakemake.input, snakemake.output, snakemake.params
    more = {name: given.get(name, "") for name in ("subsets", "clusters")}
    corpus = Corpus(given.tokens, given.about, **more)
    step, options = snakemake.wildcards.step, params.capture
    cells = Cell.of(snakemake.config, params.seeds, step, given.model, corpus, options)
    work = Step(cells, params.sequences, params.pairs, params.layers, params.kernel)
    sum_shard(work, calibration=given.calibration, **made)
