from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.screen import Sampling, screen_pair
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, params = snakemake.input, snakemake.params
    screen_pair(
        Captured(given.moments_a, given.calibration_a, given.a, given.rotated_a),
        Captured(given.moments_b, given.calibration_b, given.b, given.rotated_b),
        params.layers,
        Sampling(context_length=params.context_length, **params.options),
        rotations=given.rotations,
        path=snakemake.output[0],
        attributes=provenance(snakemake.config, "screen"),
    )
