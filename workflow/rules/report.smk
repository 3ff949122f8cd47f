# The result tables, figures and the report.

from universal_neurons.report.figures import registry


rule concatenate:
    input:
        expand(BY_STEP, table=OF_STEPS, step=GRID.steps),
    output:
        expand(f"{RESULTS}/{{table}}.parquet", table=OF_STEPS),
    log:
        log_of("concatenate"),
    benchmark:
        benchmark_of("concatenate")
    conda:
        ENVIRONMENT
    threads: threads_of("concatenate")
    resources:
        **asks("concatenate"),
    params:
        seeds=GRID.seeds,
    script:
        "../scripts/concatenate.py"


use rule concatenate as concatenate_ablation with:
    input:
        ablated(ABLATION, kind=KINDS),
    output:
        f"{RESULTS}/ablation.parquet",
    log:
        log_of("concatenate_ablation"),
    benchmark:
        benchmark_of("concatenate_ablation")
    resources:
        **asks("concatenate_ablation"),


use rule concatenate as concatenate_doses with:
    input:
        *(ablated(BY_MODEL, table=table) for table in ("doses", "mediation")),
    output:
        expand(f"{RESULTS}/{{table}}.parquet", table=["doses", "mediation"]),
    log:
        log_of("concatenate_doses"),
    benchmark:
        benchmark_of("concatenate_doses")
    resources:
        **asks("concatenate_doses"),


use rule concatenate as concatenate_described with:
    input:
        *(cells(BY_MODEL, table=table) for table in OF_MODELS),
    output:
        expand(f"{RESULTS}/{{table}}.parquet", table=OF_MODELS),
    log:
        log_of("concatenate_described"),
    benchmark:
        benchmark_of("concatenate_described")
    resources:
        **asks("concatenate_described"),


use rule concatenate as concatenate_examples with:
    input:
        expand(BY_MODEL, table=OF_CONTEXTS, seed=GRID.seeds, step=HOME),
    output:
        expand(f"{RESULTS}/{{table}}.parquet", table=OF_CONTEXTS),
    log:
        log_of("concatenate_examples"),
    benchmark:
        benchmark_of("concatenate_examples")
    resources:
        **asks("concatenate_examples"),


use rule concatenate as concatenate_contexts with:
    input:
        cells(BY_MODEL, table="contexts"),
    output:
        f"{RESULTS}/contexts.parquet",
    log:
        log_of("concatenate_contexts"),
    benchmark:
        benchmark_of("concatenate_contexts")
    resources:
        **asks("concatenate_contexts"),


rule join_effects:
    input:
        parts=ablated(BY_MODEL, table="single"),
        universality=f"{RESULTS}/universality.parquet",
    output:
        f"{RESULTS}/effects.parquet",
    log:
        log_of("join_effects"),
    benchmark:
        benchmark_of("join_effects")
    conda:
        ENVIRONMENT
    threads: threads_of("join_effects")
    resources:
        **asks("join_effects"),
    params:
        seeds=GRID.seeds,
    script:
        "../scripts/join_effects.py"


rule neurons:
    input:
        cells(MOMENTS, shard=GRID.shards),
    output:
        f"{RESULTS}/neurons.parquet",
    log:
        log_of("neurons"),
    benchmark:
        benchmark_of("neurons")
    conda:
        ENVIRONMENT
    threads: threads_of("neurons")
    resources:
        **asks("neurons"),
    params:
        seeds=GRID.seeds,
    script:
        "../scripts/neurons.py"


if CORPUS_SUBSETS:

    rule subsets:
        input:
            moments=cells(MOMENTS, shard=GRID.shards),
            about=f"{CORPUS}/corpus.json",
        output:
            f"{RESULTS}/subsets.parquet",
        log:
            log_of("subsets"),
        benchmark:
            benchmark_of("subsets")
        conda:
            ENVIRONMENT
        threads: threads_of("subsets")
        resources:
            **asks("subsets"),
        params:
            seeds=GRID.seeds,
        script:
            "../scripts/subsets.py"


rule models:
    input:
        models=cells(MODEL_FACTS),
        losses=ablated(BY_MODEL, table="single"),
    output:
        f"{RESULTS}/models.parquet",
    log:
        log_of("models"),
    benchmark:
        benchmark_of("models")
    conda:
        ENVIRONMENT
    threads: threads_of("models")
    resources:
        **asks("models"),
    params:
        seeds=GRID.seeds,
    script:
        "../scripts/models.py"


rule figures:
    input:
        expand(f"{RESULTS}/{{table}}.parquet", table=registry.TABLES),
    output:
        svg=[
            report(f"{RESULTS}/figures/{name}.svg", caption=f"../report/{name}.rst")
            for name in FIGURES
        ],
        png=expand(f"{RESULTS}/figures/{{name}}.png", name=FIGURES),
    log:
        log_of("figures"),
    benchmark:
        benchmark_of("figures")
    conda:
        ENVIRONMENT
    threads: threads_of("figures")
    resources:
        **asks("figures"),
    params:
        universality=config["universality"],
        version=METHOD_VERSION["report"],
    script:
        "../scripts/figures.py"


rule report:
    input:
        **CORPUS_SUBSETS,
        # Any model's: all are scored on the same tokens.
        tables=expand(f"{RESULTS}/{{table}}.parquet", table=TABLES),
        described=expand(f"{RESULTS}/{{table}}.parquet", table=DESCRIBED),
        figures=expand(f"{RESULTS}/figures/{{name}}.svg", name=FIGURES),
        about=f"{CORPUS}/corpus.json",
        moments=expand(MOMENTS, seed=GRID.by_name[0], step=GRID.steps[0], shard=GRID.shards),
        captions=CAPTIONS,
    output:
        f"{RESULTS}/report.html",
    log:
        log_of("report"),
    benchmark:
        benchmark_of("report")
    conda:
        ENVIRONMENT
    threads: threads_of("report")
    resources:
        **asks("report"),
    params:
        version=METHOD_VERSION["report"],
    script:
        "../scripts/report.py"
