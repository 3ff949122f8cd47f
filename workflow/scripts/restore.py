from universal_neurons.capture.run import CaptureOptions, Cell, CorpusFiles, restore
from universal_neurons.jobs import job
from universal_neurons.prepare.corpus import selection_options
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, made, params = snakemake.input, snakemake.output, snakemake.params
    cell = Cell(
        snakemake.wildcards.seed,
        int(snakemake.wildcards.step),
        given.model[0],
        CorpusFiles(given.tokens, given.about, given.get("subsets", "")),
        CaptureOptions(**params.capture),
        selection_options(snakemake.config),
        provenance(snakemake.config, "corpus", "capture"),
    )
    restore(cell, params.sequences, calibration=given.calibration, activations=made.activations)
