from universal_neurons.ablate.interventions import intervene
from universal_neurons.jobs import job
from universal_neurons.prepare.corpus import selection_options
from universal_neurons.prepare.reading import Corpus
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import read_table, write_tables

with job(snakemake.log[0]):
    given, params, names = snakemake.input, snakemake.params, snakemake.wildcards
    models = dict(zip(names.seeds.split("+"), given.models, strict=True))
    corpus, asked = Corpus(given.tokens, given.about), selection_options(snakemake.config)
    held_out, scores = corpus.held_out(given.selection, **asked), read_table(given.universality)
    known = {"step": int(names.step), "universality": scores, "moment_stores": given.moments}
    tables = intervene(models, held_out, **known, **params.options)
    write_tables(snakemake.output, tables, provenance(snakemake.config, "ablate"))
