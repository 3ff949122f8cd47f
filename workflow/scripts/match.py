from universal_neurons.budget import Budget
from universal_neurons.correlation import Baseline, Neurons, match, write_matches
from universal_neurons.jobs import job
from universal_neurons.store import Added, check_same_run, provenance

with job(snakemake.log[0]):
    given = snakemake.input
    same = check_same_run(given)
    a = Neurons.read(given.moments_a, given.calibration_a)
    b = Neurons.read(given.moments_b, given.calibration_b)
    layers = snakemake.params.layers
    sums = Added(given.sums)
    stores = given.moments_a, given.moments_b, given.calibration_a, given.calibration_b
    budget = Budget.read(sums, *stores) if len(given.sums) > 1 else None
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
