from universal_neurons.correlate.neurons import Captured
from universal_neurons.jobs import job
from universal_neurons.score.influence import influence_of_step
from universal_neurons.store.provenance import provenance

with job(snakemake.log[0]):
    given = snakemake.input
    influence_of_step(
        Captured.of_seeds(
            snakemake.params.seeds, given.moments, given.calibration, given.activations
        ),
        given.matches,
        snakemake.params.context_length,
        path=snakemake.output[0],
        attributes=provenance(snakemake.config, "influence"),
    )
