from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.screen import Sampling, screen_pair
from universal_neurons.jobs import job
from universal_neurons.prepare.reading import Documents
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, params, path = snakemake.input, snakemake.params, snakemake.output[0]
    a = Captured(given.moments_a, given.calibration_a, given.a, given.rotated_a)
    b = Captured(given.moments_b, given.calibration_b, given.b, given.rotated_b)
    size, about = Sampling(**params.sampling), provenance(snakemake.config, "screen")
    made = {"rotations": given.rotations, "path": path, "attributes": about}
    screen_pair(a, b, params.layers, size, Documents.read(given.clusters, given.about), **made)
