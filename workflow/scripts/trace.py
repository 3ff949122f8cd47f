import numpy as np

from universal_neurons.jobs import job
from universal_neurons.persist.trace import trace_models
from universal_neurons.prepare import tokens as corpus
from universal_neurons.store.files import read_json
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_table

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
