# Which universal neurons are still universal at later steps, and where functions move.


rule persistence:
    input:
        trajectories=f"{RESULTS}/trajectories.parquet",
        universality=f"{RESULTS}/universality.parquet",
    output:
        f"{RESULTS}/persistence.parquet",
    log:
        log_of("persistence"),
    benchmark:
        benchmark_of("persistence")
    conda:
        ENVIRONMENT
    threads: threads_of("persistence")
    resources:
        **asks("persistence"),
    params:
        seeds=GRID.seeds,
        exit_threshold=config["persistence"]["exit_threshold"],
        version=METHOD_VERSION["persist"],
    script:
        "../scripts/persistence.py"


rule trace:
    input:
        model=model_directories,
        later=later_model,
        weights=lambda wildcards: weights_files(
            [*model_directories(wildcards), *later_model(wildcards)]
        ),
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
    output:
        TRACE,
    log:
        log_of("trace/seed{seed}/step{step}"),
    benchmark:
        benchmark_of("trace/seed{seed}/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("trace")
    resources:
        **asks("trace"),
    params:
        sequences=GRID.trace_sequences(),
        next_step=next_step,
        exclude=config["corpus"]["exclude_token_ids"],
        positions=config["corpus"]["exclude_positions"],
        load=LOAD,
        version=METHOD_VERSION["trace"],
    script:
        "../scripts/trace.py"


rule trajectories:
    input:
        universality=f"{RESULTS}/universality.parquet",
        traces=expand(TRACE, seed=GRID.seeds, step=GRID.traced_steps),
        # To compare weights; a trace itself need not wait for the capture.
        facts=cells(MODEL_FACTS),
    output:
        f"{RESULTS}/trajectories.parquet",
    log:
        log_of("trajectories"),
    benchmark:
        benchmark_of("trajectories")
    conda:
        ENVIRONMENT
    threads: threads_of("trajectories")
    resources:
        **asks("trajectories"),
    params:
        seeds=GRID.seeds,
        exit_threshold=config["persistence"]["exit_threshold"],
        version=METHOD_VERSION["persist"],
    script:
        "../scripts/trajectories.py"
