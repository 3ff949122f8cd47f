from universal_neurons import influence, notions, universality
from universal_neurons.jobs import job
from universal_neurons.store import check_same_run, provenance
from universal_neurons.tables import write_table

with job(snakemake.log[0]):
    given, made = snakemake.input, snakemake.output
    check_same_run(given)
    about, threshold = provenance(snakemake.config, "score"), snakemake.params.threshold
    influences = influence.read_influences(given.influence) if given.influence else {}
    means = influence.mean_influences(influences)
    step = int(snakemake.wildcards.step)
    matches = universality.matches_table(given.parts, step, influences)
    scores = universality.universality_table(matches, threshold, means)
    fractions = influence.fractions_table(scores, means, threshold)
    matches, scores, groups = notions.add_notions(matches, scores, threshold)
    for name, table in {
        "matches": matches,
        "universality": scores,
        "fractions": fractions,
        "groups": groups,
    }.items():
        write_table(made[name], table, about)
