from universal_neurons.jobs import job
from universal_neurons.score import describe
from universal_neurons.store.columns.describe import NEURONS
from universal_neurons.store.provenance import provenance
from universal_neurons.store.same_run import check_same_run
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    check_same_run(snakemake.input)
    table = describe.neurons_table(snakemake.input)
    about = provenance(snakemake.config)
    write_table(snakemake.output[0], NEURONS, table, about, snakemake.params.seeds)
