from pathlib import Path

from universal_neurons.jobs import job
from universal_neurons.report.figures.draw import write_figures

with job(snakemake.log[0]):
    results, out = Path(snakemake.input[0]).parent, Path(snakemake.output[0]).parent
    write_figures(results, out, threshold=snakemake.params.threshold)
