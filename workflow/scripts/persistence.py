from universal_neurons.jobs import job
from universal_neurons.persist.persistence import persistence
from universal_neurons.store.columns.persist import PERSISTENCE
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import read_table, write_table

with job(snakemake.log[0]):
    table = persistence(read_table(snakemake.input[0]))
    about = provenance(snakemake.config, "persist")
    write_table(snakemake.output[0], PERSISTENCE, table, about, snakemake.params.seeds)
