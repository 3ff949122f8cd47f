from universal_neurons.correlate.neurons import Captured
from universal_neurons.jobs import job
from universal_neurons.prepare.reading import Corpus
from universal_neurons.score.influence import influence_of_step
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, params, path = snakemake.input, snakemake.params, snakemake.output[0]
    stores = given.moments, given.calibration, given.activations, given.given
    models = Captured.of_seeds(params.seeds, *stores)
    corpus = Corpus(given.tokens, given.about, clusters=given.clusters)
    made = {"path": path, "attributes": provenance(snakemake.config, "influence")}
    influence_of_step(models, given.matches, corpus, **made)
