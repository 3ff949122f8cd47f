from pathlib import Path

from universal_neurons.capture.run import CaptureOptions
from universal_neurons.correlate.rotations import Rotating
from universal_neurons.jobs import job
from universal_neurons.prepare.reading import Corpus
from universal_neurons.score.untrained import untrained_scores
from universal_neurons.store.columns.score import UNTRAINED
from universal_neurons.store.provenance import provenance
from universal_neurons.store.tables import write_table

with job(snakemake.log[0]):
    given, params, path = snakemake.input, snakemake.params, snakemake.output[0]
    corpus = Corpus(given.tokens, given.about).of_seed(min(snakemake.config["models"]["seeds"]))
    options = CaptureOptions.of(snakemake.config, params.capture)
    nulls = {"rotations": given.rotations, "kernel": params.kernel}
    nulls["rotating"] = Rotating(**params.rotating)
    scores = untrained_scores(given.model, corpus, options, **nulls, room=Path(path).parent)
    write_table(path, UNTRAINED, scores, provenance(snakemake.config, "untrained"))
