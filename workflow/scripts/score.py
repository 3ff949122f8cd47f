from universal_neurons.jobs import job
from universal_neurons.score.score import score_step
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_tables

with job(snakemake.log[0]):
    step, threshold = int(snakemake.wildcards.step), snakemake.params.threshold
    tables = score_step(step, threshold=threshold, **snakemake.input)
    write_tables(snakemake.output, tables, provenance(snakemake.config, "score"))
