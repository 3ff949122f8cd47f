import json
from pathlib import Path

from universal_neurons import corpus
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    about = json.loads(Path(snakemake.input[0]).read_text())
    selection = corpus.select(about, **snakemake.params)
    Path(snakemake.output[0]).write_text(json.dumps(selection, indent=1))
