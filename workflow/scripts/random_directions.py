from universal_neurons.capture.run import Cell
from universal_neurons.correlate.rotations import Rotating
from universal_neurons.jobs import job
from universal_neurons.prepare.reading import Corpus
from universal_neurons.score.random_directions import Drawing, random_step
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, params, step = snakemake.input, snakemake.params, snakemake.wildcards.step
    corpus = Corpus(given.tokens, given.about)
    asked = (params.seeds, step, given.models, corpus, params.capture)
    how = {"rotating": Rotating(**params.rotating), "kernel": params.kernel}
    how |= {"rotations": given.rotations, "path": snakemake.output[0]}
    how["attributes"] = provenance(snakemake.config, "random_directions")
    random_step(Cell.of(snakemake.config, *asked), Drawing(**params.drawing), **how)
