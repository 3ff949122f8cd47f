from universal_neurons import products
from universal_neurons.activations import Activations
from universal_neurons.jobs import job
from universal_neurons.store import check_same_run, provenance, write_arrays

with job(snakemake.log[0]):
    a, b = (Activations(*stores) for stores in (snakemake.input.a, snakemake.input.b))
    same = {**check_same_run(snakemake.input), "sequences": a.attributes["sequences"]}
    tiles = products.cross_sums(a, b, snakemake.params.layers, snakemake.params.kernel)
    write_arrays(snakemake.output[0], tiles, provenance(snakemake.config, "correlate", **same))
