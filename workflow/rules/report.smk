# The result tables, figures and the report.

from universal_neurons.report.figures import registry


rule concatenate:
    input:
        expand(BY_STEP, table=OF_STEPS, step=GRID.steps),
    output:
        expand(f"{RESULTS}/{{table}}.parquet", table=OF_STEPS),
    log:
        f"{RESULTS}/logs/concatenate.log",
    benchmark:
        f"{RESULTS}/benchmarks/concatenate.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    script:
        "../scripts/concatenate.py"


use rule concatenate as concatenate_seeds with:
    input:
        expand(BY_BLOCK, table=OF_BLOCKS, seeds=GRID.ablation_blocks(), step=GRID.steps),
    output:
        expand(f"{RESULTS}/{{table}}.parquet", table=OF_BLOCKS),
    log:
        f"{RESULTS}/logs/concatenate_seeds.log",
    benchmark:
        f"{RESULTS}/benchmarks/concatenate_seeds.tsv"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),


rule neurons:
    input:
        cells(MOMENTS, shard=GRID.shards),
    output:
        f"{RESULTS}/neurons.parquet",
    log:
        f"{RESULTS}/logs/neurons.log",
    benchmark:
        f"{RESULTS}/benchmarks/neurons.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
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
            f"{RESULTS}/logs/subsets.log",
        benchmark:
            f"{RESULTS}/benchmarks/subsets.tsv"
        conda:
            ENVIRONMENT
        threads: 1
        resources:
            mem_mb=growing(8000),
            runtime=growing(30),
        script:
            "../scripts/subsets.py"


rule models:
    input:
        models=cells(MODEL_FACTS),
        ablation=f"{RESULTS}/ablation.parquet",
    output:
        f"{RESULTS}/models.parquet",
    log:
        f"{RESULTS}/logs/models.log",
    benchmark:
        f"{RESULTS}/benchmarks/models.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
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
        f"{RESULTS}/logs/figures.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(30),
    params:
        threshold=config["universality"]["excess_threshold"],
        version=METHOD_VERSION["report"],
    script:
        "../scripts/figures.py"


rule report:
    input:
        **CORPUS_SUBSETS,
        # Any model's: all are scored on the same tokens.
        tables=expand(f"{RESULTS}/{{table}}.parquet", table=TABLES),
        figures=expand(f"{RESULTS}/figures/{{name}}.svg", name=FIGURES),
        about=f"{CORPUS}/corpus.json",
        moments=expand(MOMENTS, seed=GRID.seeds[0], step=GRID.steps[0], shard=GRID.shards),
        captions=CAPTIONS,
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(30),
    params:
        version=METHOD_VERSION["report"],
    script:
        "../scripts/report.py"
