import json
from pathlib import Path

from universal_neurons.jobs import job
from universal_neurons.prepare import corpus
from universal_neurons.store.files import read_json

with job(snakemake.log[0]):
    about = read_json(snakemake.input[0])
    selection = corpus.select(about, **snakemake.params)
    Path(snakemake.output[0]).write_text(json.dumps(selection, indent=1))
