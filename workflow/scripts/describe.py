from universal_neurons.describe.examples import Text
from universal_neurons.describe.neurons import neurons
from universal_neurons.jobs import job
from universal_neurons.models.facts import read_facts
from universal_neurons.models.load import load_captured
from universal_neurons.prepare.reading import Corpus
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_tables

with job(snakemake.log[0]):
    given, params, names = snakemake.input, snakemake.params, snakemake.wildcards
    captured, place = read_facts(given.facts)["sha256"], given.model[0]
    model = load_captured(place, captured, given.facts, params.load)
    corpus = Corpus(given.tokens, given.about, given.get("subsets", "")).of_seed(names.seed)
    read = corpus.sequences, Text.of(corpus, **params.text), given.vocabulary
    tables = neurons(model, *read, params.cutoffs, {"seed": names.seed, "step": int(names.step)})
    write_tables(snakemake.output, tables, provenance(snakemake.config, "describe"))
