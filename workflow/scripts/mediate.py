from universal_neurons.ablate.mediation import mediation
from universal_neurons.ablate.subject import Subject
from universal_neurons.jobs import job
from universal_neurons.prepare.corpus import selection_options
from universal_neurons.prepare.reading import Corpus
from universal_neurons.store.columns.ablate import MEDIATION
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    given, params, names = snakemake.input, snakemake.params, snakemake.wildcards
    corpus = Corpus(given.tokens, given.about, clusters=given.clusters).of_seed(names.seed)
    held_out = corpus.held_out(given.selection, **selection_options(snakemake.config))
    subject = Subject.read(given.model[0], given.moments, names.seed, int(names.step), params.load)
    rows = mediation(subject, held_out, given.roles, corpus.sequences, **params.options)
    write_table(snakemake.output[0], MEDIATION, rows, provenance(snakemake.config, "ablate"))
