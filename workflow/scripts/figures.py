from pathlib import Path

from universal_neurons.figures import write_figures
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    results, out = Path(snakemake.input[0]).parent, Path(snakemake.output[0]).parent
    write_figures(results, out, threshold=snakemake.params.threshold)
