# Which universal neurons are still universal at later steps, and where functions move.


rule persistence:
    input:
        f"{RESULTS}/universality.parquet",
    output:
        f"{RESULTS}/persistence.parquet",
    log:
        f"{RESULTS}/logs/persistence.log",
    benchmark:
        f"{RESULTS}/benchmarks/persistence.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        version=METHOD_VERSION["persist"],
    script:
        "../scripts/persistence.py"


rule trace:
    input:
        models=lambda wildcards: model_directories(wildcards, wildcards.seeds.split("+")),
        later=lambda wildcards: expand(
            MODEL, seed=wildcards.seeds.split("+"), step=next_step(wildcards)
        ),
        weights=lambda wildcards: weights_files(
            expand(
                MODEL,
                seed=wildcards.seeds.split("+"),
                step=[wildcards.step, next_step(wildcards)],
            )
        ),
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
    output:
        TRACE,
    log:
        f"{RESULTS}/logs/trace/seeds{{seeds}}/step{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/trace/seeds{{seeds}}/step{{step}}.tsv"
    conda:
        ENVIRONMENT
    threads: cost(GRID, "trace").threads
    resources:
        mem_mb=growing(cost(GRID, "trace").mem_mb),
        runtime=growing(cost(GRID, "trace").minutes),
    params:
        sequences=GRID.trace_sequences(),
        next_step=next_step,
        exclude=config["corpus"]["exclude_token_ids"],
        load={key: config["capture"][key] for key in ("dtype", "device")},
        version=METHOD_VERSION["trace"],
    script:
        "../scripts/trace.py"


rule trajectories:
    input:
        universality=f"{RESULTS}/universality.parquet",
        traces=expand(TRACE, seeds=GRID.ablation_blocks(), step=GRID.steps[:-1]),
    output:
        f"{RESULTS}/trajectories.parquet",
    log:
        f"{RESULTS}/logs/trajectories.log",
    benchmark:
        f"{RESULTS}/benchmarks/trajectories.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(30),
    params:
        version=METHOD_VERSION["persist"],
    script:
        "../scripts/trajectories.py"
