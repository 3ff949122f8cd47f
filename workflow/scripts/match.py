from universal_neurons.correlate.match import match_pair
from universal_neurons.correlate.neurons import Captured
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given = snakemake.input
    match_pair(
        given.sums,
        Captured(given.moments_a, given.calibration_a, rotated=given.rotated_a),
        Captured(given.moments_b, given.calibration_b, rotated=given.rotated_b),
        snakemake.params.layers,
        rotations=given.rotations,
        path=snakemake.output[0],
        attributes=provenance(snakemake.config, "match"),
    )
