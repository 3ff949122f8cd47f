from universal_neurons.jobs import job
from universal_neurons.prepare.tokens import read_facts
from universal_neurons.score import describe
from universal_neurons.store.columns.describe import SUBSETS
from universal_neurons.store.provenance import provenance
from universal_neurons.store.same_run import check_same_run
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    given = snakemake.input
    check_same_run(given.moments)
    table = describe.subsets_table(given.moments, read_facts(given.about)["subsets"])
    about = provenance(snakemake.config)
    write_table(snakemake.output[0], SUBSETS, table, about, snakemake.params.seeds)
