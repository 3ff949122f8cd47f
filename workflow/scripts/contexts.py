from universal_neurons.describe.contexts import contexts_in, wanted
from universal_neurons.jobs import job
from universal_neurons.models.facts import read_facts
from universal_neurons.models.load import load_captured
from universal_neurons.prepare.reading import Corpus
from universal_neurons.store.columns.examples import CONTEXTS
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    given, names = snakemake.input, snakemake.wildcards
    places = wanted(given.examples, given.matches, names.seed, int(names.step))
    captured = read_facts(given.facts)["sha256"]
    model = load_captured(given.model[0], captured, given.facts, snakemake.params.load)
    corpus = Corpus(given.tokens, given.about).of_seed(names.seed)
    rows = contexts_in(model, corpus, places)
    write_table(snakemake.output[0], CONTEXTS, rows, provenance(snakemake.config, "examples"))
