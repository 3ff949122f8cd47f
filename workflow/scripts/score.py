from universal_neurons import influence, universality
from universal_neurons.jobs import job
from universal_neurons.store import check_same_run, provenance
from universal_neurons.tables import write_table

with job(snakemake.log[0]):
    given, made = snakemake.input, snakemake.output
    check_same_run(given)
    about = provenance(snakemake.config, "score")
    step, threshold = int(snakemake.wildcards.step), snakemake.params.threshold
    found = influence.read_influences(given.influence) if given.influence else {}
    means = influence.mean_influences(found)
    matches = universality.matches_table(given.parts, step, found)
    scores = universality.universality_table(matches, threshold, means)
    write_table(made.matches, matches, about)
    write_table(made.universality, scores, about)
    write_table(made.fractions, influence.fractions_table(scores, means, threshold), about)
