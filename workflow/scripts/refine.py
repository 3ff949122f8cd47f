from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.refine import refine_pair
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given = snakemake.input
    refine_pair(
        Captured(given.moments_a, given.calibration_a, given.a),
        Captured(given.moments_b, given.calibration_b, given.b),
        given.screens,
        snakemake.params.kernel,
        path=snakemake.output[0],
        attributes=provenance(snakemake.config, "match"),
    )
