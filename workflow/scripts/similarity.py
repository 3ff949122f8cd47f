from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.similar_pair import compare_pair
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given, about = snakemake.input, provenance(snakemake.config, "similarity")
    a = Captured(given.moments_a, given.calibration_a)
    b = Captured(given.moments_b, given.calibration_b)
    within = given.within_a, given.within_b
    compare_pair(given.sums, a, b, within, path=snakemake.output[0], attributes=about)
