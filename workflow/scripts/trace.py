from universal_neurons.jobs import job
from universal_neurons.persist.trace import trace_models
from universal_neurons.prepare.reading import Corpus
from universal_neurons.store.columns.persist import TRACE
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    given, params, names = snakemake.input, snakemake.params, snakemake.wildcards
    corpus, pairs = Corpus(given.tokens, given.about), zip(given.models, given.later, strict=True)
    models = dict(zip(names.seeds.split("+"), pairs, strict=True))
    tokens, exclude = corpus.sequences[: params.sequences], corpus.excluded(params.exclude)
    options = {"exclude": exclude, "load_options": params.load}
    table = trace_models(models, tokens, step=int(names.step), **options)
    write_table(snakemake.output[0], TRACE, table, provenance(snakemake.config, "trace"))
