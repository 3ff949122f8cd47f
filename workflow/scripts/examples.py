from universal_neurons.describe.chosen import Found
from universal_neurons.describe.examples import Home, Text, examples
from universal_neurons.jobs import job
from universal_neurons.prepare.reading import Corpus
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_tables

with job(snakemake.log[0]):
    given, params, names = snakemake.input, snakemake.params, snakemake.wildcards
    corpus = Corpus(given.tokens, given.about, given.get("subsets", "")).of_seed(names.seed)
    text = Text.of(corpus, **params.text)
    home = Home.read(given.model[0], given.moments, names.seed, int(names.step), params.load)
    found = Found(given.universality, given.groups, given.effects)
    tables = examples(home, text, found, params.neurons, params.random_seed)
    write_tables(snakemake.output, tables, provenance(snakemake.config, "examples"))
