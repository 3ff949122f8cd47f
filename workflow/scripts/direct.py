from universal_neurons.capture.direct import Step, sum_shard
from universal_neurons.capture.run import CaptureOptions, Cell, CorpusFiles
from universal_neurons.jobs import job
from universal_neurons.prepare.corpus import selection_options
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, made, params = snakemake.input, snakemake.output, snakemake.params
    cells = [
        Cell(
            seed,
            int(snakemake.wildcards.step),
            directory,
            CorpusFiles(given.tokens, given.about, given.get("subsets", "")),
            CaptureOptions(**params.capture),
            selection_options(snakemake.config),
            provenance(snakemake.config, "corpus", "capture"),
        )
        for seed, directory in zip(params.seeds, given.model, strict=True)
    ]
    pairs = [(a, b) for a, b in params.pairs]
    step = Step(cells, given.calibration, params.sequences, pairs, params.layers, params.kernel)
    sum_shard(step, sums=made.sums, moments=made.moments, within=made.within)
