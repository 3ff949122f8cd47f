from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.permuted import permuted_of_step
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, params = snakemake.input, snakemake.params
    permuted_of_step(
        Captured.of_seeds(params.seeds, given.moments, given.calibration, given.activations),
        params.context_length,
        params.kernel,
        path=snakemake.output[0],
        attributes=provenance(snakemake.config, "permuted"),
    )
