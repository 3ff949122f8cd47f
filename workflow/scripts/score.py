from universal_neurons import influence, notions, nulls, universality
from universal_neurons.budget import budget_table
from universal_neurons.correlation import mean_over_others
from universal_neurons.jobs import job
from universal_neurons.store import check_same_run, provenance, read_by_pair
from universal_neurons.tables import read_table, write_table

with job(snakemake.log[0]):
    given, made = snakemake.input, snakemake.output
    check_same_run(given)
    about, threshold = provenance(snakemake.config, "score"), snakemake.params.threshold
    influences = read_by_pair(given.influence) if given.influence else {}
    means = mean_over_others(influences)
    step = int(snakemake.wildcards.step)
    matches = universality.matches_table(given.parts, step, influences)
    found = universality.read_matches(given.parts)
    scores = universality.universality_table(matches, threshold, means)
    fractions = influence.fractions_table(scores, means, threshold)
    chance = {"rotated": nulls.rotated_null(found, scores)}
    if given.permuted:
        chance["permuted"] = nulls.permuted_null(read_by_pair(given.permuted), scores)
    if given.untrained:
        chance["untrained"] = nulls.untrained_null(read_table(given.untrained))
    scores = nulls.with_p_values(scores, chance)
    matches, scores, groups = notions.add_notions(matches, scores, found, threshold)
    for name, table in {
        "matches": matches,
        "universality": scores,
        "fractions": fractions,
        "groups": groups,
        "nulls": nulls.histograms(chance, step),
        "token_budget": budget_table(given.parts, step, threshold),
    }.items():
        write_table(made[name], table, about)
