from universal_neurons.ablate.scored import with_scores
from universal_neurons.jobs import job
from universal_neurons.store.columns.ablate import EFFECTS
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    given, seeds = snakemake.input, snakemake.params.seeds
    rows = with_scores(given.parts, given.universality)
    write_table(snakemake.output[0], EFFECTS, rows, provenance(snakemake.config), seeds)
