from universal_neurons import universality
from universal_neurons.jobs import job
from universal_neurons.store import check_same_run, provenance
from universal_neurons.tables import write_table

with job(snakemake.log[0]):
    check_same_run(snakemake.input)
    about = provenance(snakemake.config, "score")
    matches = universality.matches_table(snakemake.input, int(snakemake.wildcards.step))
    scores = universality.universality_table(matches, snakemake.params.threshold)
    write_table(snakemake.output.matches, matches, about)
    write_table(snakemake.output.universality, scores, about)
