from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.refine import refine_pair
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, about = snakemake.input, provenance(snakemake.config, "match")
    a = Captured(given.moments_a, given.calibration_a, given.a, given.rotated_a, given.given_a)
    b = Captured(given.moments_b, given.calibration_b, given.b, given.rotated_b, given.given_b)
    where = {"rotations": given.rotations, "path": snakemake.output[0]}
    refine_pair(a, b, given.screens, snakemake.params.kernel, **where, attributes=about)
