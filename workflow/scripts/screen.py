from universal_neurons.activations import Activations
from universal_neurons.correlation import Baseline, Neurons
from universal_neurons.jobs import job
from universal_neurons.screening import screen
from universal_neurons.store import check_same_run, provenance, write_arrays

with job(snakemake.log[0]):
    given, params = snakemake.input, snakemake.params
    same = check_same_run(given)
    a = Neurons.read(given.moments_a, given.calibration_a)
    b = Neurons.read(given.moments_b, given.calibration_b)
    found = screen(
        list(map(Activations, given.a)),
        list(map(Activations, given.b)),
        a,
        b,
        params.layers,
        baseline_a=Baseline.read(a, given.rotations, given.rotated_a),
        baseline_b=Baseline.read(b, given.rotations, given.rotated_b),
        context_length=params.context_length,
        **params.options,
    )
    about = provenance(snakemake.config, "screen", layers=params.layers, **same)
    write_arrays(snakemake.output[0], found.items(), about)
