from universal_neurons import universality
from universal_neurons.jobs import job
from universal_neurons.store import check_same_run, provenance, read_json
from universal_neurons.tables import write_table

with job(snakemake.log[0]):
    given = snakemake.input
    check_same_run(given.moments)
    table = universality.subsets_table(given.moments, read_json(given.about)["subsets"])
    write_table(snakemake.output[0], table, provenance(snakemake.config))
