import numpy as np

from universal_neurons import corpus
from universal_neurons.jobs import job
from universal_neurons.store import provenance, read_json
from universal_neurons.tables import write_table
from universal_neurons.trace import trace_models

with job(snakemake.log[0]):
    given, params = snakemake.input, snakemake.params
    pairs = zip(given.models, given.later, strict=True)
    table = trace_models(
        dict(zip(snakemake.wildcards.seeds.split("+"), pairs, strict=True)),
        np.load(given.tokens, mmap_mode="r")[: params.sequences],
        step=int(snakemake.wildcards.step),
        exclude=corpus.excluded(params.exclude, read_json(given.about)),
        load_options=params.load,
    )
    write_table(snakemake.output[0], table, provenance(snakemake.config, "trace"))
