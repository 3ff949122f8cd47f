from universal_neurons.jobs import job
from universal_neurons.persist.persistence import SCORES, persistence
from universal_neurons.store.columns.persist import PERSISTENCE
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import read_table, write_table

with job(snakemake.log[0]):
    given, params = snakemake.input, snakemake.params
    scores = read_table(given.universality, SCORES)
    table = persistence(read_table(given.trajectories), scores, params.exit_threshold)
    about = provenance(snakemake.config, "persist")
    write_table(snakemake.output[0], PERSISTENCE, table, about, params.seeds)
