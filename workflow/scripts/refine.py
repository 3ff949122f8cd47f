from universal_neurons.activations import Activations
from universal_neurons.correlation import Neurons, write_matches
from universal_neurons.jobs import job
from universal_neurons.screening import refine
from universal_neurons.store import check_same_run, provenance

with job(snakemake.log[0]):
    given = snakemake.input
    same = check_same_run(given)
    a_stores, b_stores = list(map(Activations, given.a)), list(map(Activations, given.b))
    a = Neurons.read(given.moments_a, given.calibration_a)
    b = Neurons.read(given.moments_b, given.calibration_b)
    found = refine(a_stores, b_stores, a, b, given.screens, kernel=snakemake.params.kernel)
    write_matches(
        snakemake.output[0],
        *found,
        seed=snakemake.wildcards.seed,
        other_seed=snakemake.wildcards.other,
        layers=range(len(a.d_mlp)),
        d_mlp=a.d_mlp,
        other_d_mlp=b.d_mlp,
        attributes=provenance(snakemake.config, "match", mode="screened", **same),
    )
