from universal_neurons.ablate.interventions import intervene
from universal_neurons.jobs import job
from universal_neurons.prepare.reading import Corpus
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import read_table, write_tables

with job(snakemake.log[0]):
    given, params, names = snakemake.input, snakemake.params, snakemake.wildcards
    models = dict(zip(names.seeds.split("+"), given.models, strict=True))
    held_out = Corpus(given.tokens, given.about).held_out(given.selection)
    scores = {"universality": read_table(given.universality), "moment_stores": given.moments}
    tables = intervene(models, held_out, step=int(names.step), **scores, **params.options)
    write_tables(snakemake.output, tables, provenance(snakemake.config, "ablate"))
