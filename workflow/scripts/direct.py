from universal_neurons import direct
from universal_neurons.jobs import job

with job(snakemake.log[0]):
    params = snakemake.params
    direct.run(
        inputs=dict(snakemake.input),
        outputs=dict(snakemake.output),
        seeds=params.seeds,
        pairs=[(a, b) for a, b in params.pairs],
        step=int(snakemake.wildcards.step),
        layers=params.layers,
        sequences=params.sequences,
        options=params.capture,
        kernel=params.kernel,
        config=snakemake.config,
    )
