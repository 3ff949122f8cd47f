from universal_neurons.jobs import job
from universal_neurons.persist.trajectories import JUDGED, KEYS, read_traces, trajectories
from universal_neurons.store.columns.persist import TRAJECTORIES
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import read_table, write_table

with job(snakemake.log[0]):
    given, params = snakemake.input, snakemake.params
    universality = read_table(given.universality, [*KEYS, "universal", *JUDGED])
    traces = read_traces(given.traces, given.facts)
    table = trajectories(universality, traces, params.exit_threshold)
    about = provenance(snakemake.config, "persist")
    write_table(snakemake.output[0], TRAJECTORIES, table, about, params.seeds)
