from universal_neurons.jobs import job
from universal_neurons.models.load import load
from universal_neurons.persist.trace import trace
from universal_neurons.prepare.reading import Corpus
from universal_neurons.store.columns.persist import TRACE
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    given, params, names = snakemake.input, snakemake.params, snakemake.wildcards
    corpus = Corpus(given.tokens, given.about).of_seed(names.seed)
    model, later = load(given.model[0], **params.load), load(given.later[0], **params.load)
    asked = corpus.sequences[: params.sequences], corpus.excluded(params.exclude), params.positions
    rows = trace(model, later, *asked).assign(seed=names.seed, step=int(names.step))
    about = provenance(snakemake.config, "trace", weights=[model.digest(), later.digest()])
    write_table(snakemake.output[0], TRACE, rows, about)
