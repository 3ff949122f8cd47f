from universal_neurons import products
from universal_neurons.activations import Activations
from universal_neurons.jobs import job
from universal_neurons.store import provenance, write_arrays

with job(snakemake.log[0]):
    tiles = products.cross_sums(
        Activations(snakemake.input.a),
        Activations(snakemake.input.b),
        snakemake.params.layers,
        snakemake.params.kernel,
    )
    write_arrays(snakemake.output[0], tiles, provenance(snakemake.config))
