from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.permuted import permuted_pair
from universal_neurons.correlate.rotations import Rotating
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, params, path = snakemake.input, snakemake.params, snakemake.output[0]
    a = Captured(given.moments_a, given.calibration_a, given.a)
    b = Captured(given.moments_b, given.calibration_b, given.b)
    nulls = {"rotations": given.rotations, "kernel": params.kernel}
    nulls["rotating"] = Rotating(**params.rotating)
    nulls["attributes"] = provenance(snakemake.config, "permuted")
    permuted_pair(a, b, params.context_length, **nulls, path=path)
