from universal_neurons.correlate.rotations import write_rotations
from universal_neurons.jobs import job
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    write_rotations(
        snakemake.output[0],
        [(d_mlp, layer) for d_mlp, layer in snakemake.params.layers],
        **snakemake.params.baseline,
        attributes=provenance(snakemake.config, "rotate"),
    )
