# Which universal neurons are still universal at later steps.


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
