from universal_neurons import correlation
from universal_neurons.jobs import job
from universal_neurons.store import Added, provenance

with job(snakemake.log[0]):
    given = snakemake.input
    a = correlation.Neurons.read(given.moments_a, given.within_a, given.calibration_a)
    b = correlation.Neurons.read(given.moments_b, given.within_b, given.calibration_b)
    layers, baseline = snakemake.params.layers, snakemake.params.baseline
    forward, backward = correlation.match(Added(given.sums), a, b, layers, **baseline)
    correlation.write_matches(
        snakemake.output[0],
        forward,
        backward,
        seed=snakemake.wildcards.seed,
        other_seed=snakemake.wildcards.other,
        layers=layers,
        d_mlp=a.d_mlp,
        other_d_mlp=b.d_mlp,
        attributes=provenance(snakemake.config),
    )
