from pathlib import Path

from universal_neurons.jobs import job
from universal_neurons.report.figures.draw import write_figures
from universal_neurons.score.criterion import Criterion

with job(snakemake.log[0]):
    results, out = Path(snakemake.input[0]).parent, Path(snakemake.output[0]).parent
    write_figures(results, out, criterion=Criterion.of(snakemake.params.universality))
