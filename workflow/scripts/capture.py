from universal_neurons import capture
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    capture.run(
        inputs={**snakemake.input, "model": snakemake.input.model[0]},
        outputs=dict(snakemake.output),
        seed=snakemake.wildcards.seed,
        step=int(snakemake.wildcards.step),
        sequences=snakemake.params.sequences,
        options=snakemake.params.capture,
        config=snakemake.config,
    )
