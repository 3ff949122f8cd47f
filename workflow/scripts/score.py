from universal_neurons.jobs import job
from universal_neurons.score.score import score_step, write_scores
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given = snakemake.input
    tables = score_step(
        int(snakemake.wildcards.step),
        given.parts,
        snakemake.params.threshold,
        influence=given.influence or None,
        permuted=given.permuted or None,
        untrained=given.untrained or None,
    )
    write_scores(tables, snakemake.output, provenance(snakemake.config, "score"))
