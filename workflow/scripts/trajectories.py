from universal_neurons.jobs import job
from universal_neurons.persist.trajectories import read_traces, trajectories
from universal_neurons.store.columns.persist import TRAJECTORIES
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import read_table, write_table

with job(snakemake.log[0]):
    columns = ["seed", "step", "layer", "neuron", "universal"]
    universality = read_table(snakemake.input.universality, columns)
    table = trajectories(universality, read_traces(snakemake.input.traces, snakemake.input.facts))
    about = provenance(snakemake.config, "persist")
    write_table(snakemake.output[0], TRAJECTORIES, table, about, snakemake.params.seeds)
