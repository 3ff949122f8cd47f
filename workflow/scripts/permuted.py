from itertools import combinations

from universal_neurons.activations import Activations
from universal_neurons.correlation import Neurons
from universal_neurons.jobs import job
from universal_neurons.permuted import permuted_best, sample_of
from universal_neurons.store import check_same_run, provenance, write_by_pair

with job(snakemake.log[0]):
    given, params = snakemake.input, snakemake.params
    same = check_same_run(given)
    stores = dict(zip(params.seeds, map(Activations, given.activations), strict=True))
    # Moments are ordered by shard, then by seed.
    neurons = {
        seed: Neurons.read(given.moments[i :: len(params.seeds)], given.calibration[i])
        for i, seed in enumerate(params.seeds)
    }
    first = params.seeds[0]
    pairings = sample_of(stores[first], params.context_length, neurons[first].n_tokens)
    found = {}
    for a, b in combinations(params.seeds, 2) if pairings else ():
        ways = permuted_best(stores[a], stores[b], neurons[a], neurons[b], pairings, params.kernel)
        found[a, b], found[b, a] = ways
    write_by_pair(snakemake.output[0], found, provenance(snakemake.config, "permuted", **same))
