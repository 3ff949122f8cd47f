from universal_neurons.correlate.match import match_pair
from universal_neurons.correlate.neurons import Captured
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, about = snakemake.input, provenance(snakemake.config, "match")
    a = Captured(given.moments_a, given.calibration_a, [], given.rotated_a, given.given_a)
    b = Captured(given.moments_b, given.calibration_b, [], given.rotated_b, given.given_b)
    path, layers = snakemake.output[0], snakemake.params.layers
    match_pair(given.sums, a, b, layers, rotations=given.rotations, path=path, attributes=about)
