from universal_neurons.jobs import job
from universal_neurons.score.criterion import Criterion
from universal_neurons.score.score import score_step
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_tables

with job(snakemake.log[0]):
    step, criterion = int(snakemake.wildcards.step), Criterion.of(snakemake.params.universality)
    tables = score_step(step, criterion=criterion, **snakemake.input)
    write_tables(snakemake.output, tables, provenance(snakemake.config, "score"))
