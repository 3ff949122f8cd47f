from universal_neurons.correlate.rotations import write_rotations
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    path, params = snakemake.output[0], snakemake.params
    about = provenance(snakemake.config, "rotate")
    write_rotations(path, params.layers, **params.baseline, attributes=about)
