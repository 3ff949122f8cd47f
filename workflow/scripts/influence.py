from universal_neurons.activations import Activations
from universal_neurons.correlation import Neurons
from universal_neurons.influence import influence
from universal_neurons.jobs import job
from universal_neurons.store import check_same_run, provenance, write_by_pair
from universal_neurons.universality import read_matches

with job(snakemake.log[0]):
    given, seeds = snakemake.input, snakemake.params.seeds
    same = check_same_run(given)
    stores, neurons = {}, {}
    for i, seed in enumerate(seeds):
        # Inputs are ordered by shard, then by seed.
        stores[seed] = list(map(Activations, given.activations[i :: len(seeds)]))
        neurons[seed] = Neurons.read(given.moments[i :: len(seeds)], given.calibration[i])
    matches = read_matches(given.matches)
    found = influence(stores, neurons, matches, snakemake.params.context_length)
    about = provenance(snakemake.config, "influence", **same)
    write_by_pair(snakemake.output[0], found, about)
