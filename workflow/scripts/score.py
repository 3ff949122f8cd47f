from universal_neurons import notions, universality
from universal_neurons.budget import budget_table
from universal_neurons.jobs import job
from universal_neurons.store import check_same_run, provenance
from universal_neurons.tables import write_table

with job(snakemake.log[0]):
    check_same_run(snakemake.input)
    about, threshold = provenance(snakemake.config, "score"), snakemake.params.threshold
    step = int(snakemake.wildcards.step)
    matches = universality.matches_table(snakemake.input, step)
    scores = universality.universality_table(matches, threshold)
    tables = [
        *notions.add_notions(matches, scores, threshold),
        budget_table(snakemake.input, step, threshold),
    ]
    for path, table in zip(snakemake.output, tables, strict=True):
        write_table(path, table, about)
