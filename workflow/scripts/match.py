from universal_neurons.budget import Budget, shard_ranges
from universal_neurons.correlation import Baseline, Neurons, match, write_matches
from universal_neurons.jobs import job
from universal_neurons.store import Added, check_same_run, provenance

with job(snakemake.log[0]):
    given = snakemake.input
    same = check_same_run(given)
    sums, ranges = Added(given.sums), shard_ranges(len(given.sums))
    a, *a_parts = Neurons.read_parts(given.moments_a, given.calibration_a, ranges)
    b, *b_parts = Neurons.read_parts(given.moments_b, given.calibration_b, ranges)
    budget = Budget(sums, ranges, a_parts, b_parts) if ranges else None
    layers = snakemake.params.layers
    forward, backward = match(
        sums,
        a,
        b,
        layers,
        baseline_a=Baseline.read(a, given.rotations, given.rotated_a),
        baseline_b=Baseline.read(b, given.rotations, given.rotated_b),
        budget=budget,
    )
    write_matches(
        snakemake.output[0],
        forward,
        backward,
        seed=snakemake.wildcards.seed,
        other_seed=snakemake.wildcards.other,
        layers=layers,
        d_mlp=a.d_mlp,
        other_d_mlp=b.d_mlp,
        attributes=provenance(snakemake.config, "match", mode="exact", **same),
        budget=budget,
    )
