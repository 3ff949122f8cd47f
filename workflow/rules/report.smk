# The result tables, figures and the report.


rule concatenate:
    input:
        expand(BY_STEP, step=GRID.steps, allow_missing=True),
    output:
        f"{RESULTS}/{{table}}.parquet",
    log:
        f"{RESULTS}/logs/concatenate/{{table}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/concatenate/{{table}}.tsv"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=30,
    conda:
        ENVIRONMENT
    script:
        "../scripts/concatenate.py"


use rule concatenate as concatenate_ablation with:
    input:
        cells(ABLATION),
    output:
        f"{RESULTS}/ablation.parquet",
    log:
        f"{RESULTS}/logs/concatenate/ablation.log",
    benchmark:
        f"{RESULTS}/benchmarks/concatenate/ablation.tsv"


rule neurons:
    input:
        cells(MOMENTS, shard=GRID.shards),
    output:
        f"{RESULTS}/neurons.parquet",
    log:
        f"{RESULTS}/logs/neurons.log",
    benchmark:
        f"{RESULTS}/benchmarks/neurons.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    conda:
        ENVIRONMENT
    script:
        "../scripts/neurons.py"


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
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    conda:
        ENVIRONMENT
    script:
        "../scripts/models.py"
