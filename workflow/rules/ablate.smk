# Loss on held-out tokens with universal neurons and matched controls ablated.


rule ablate:
    input:
        model=model_directory,
        tokens=f"{CORPUS}/tokens.npy",
        selection=f"{CORPUS}/selection.json",
        moments=shards(MOMENTS),
        universality=BY_STEP.replace("{table}", "universality"),
    output:
        ABLATION,
    log:
        f"{RESULTS}/logs/ablate/seed{{seed}}/step{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/ablate/seed{{seed}}/step{{step}}.tsv"
    params:
        ablation=config["ablation"],
        load={key: config["capture"][key] for key in ("dtype", "device")},
        model=model_options(),
        version=METHOD_VERSION["ablate"],
    threads: GRID.threads("ablate")
    resources:
        mem_mb=GRID.mem_mb("ablate"),
        runtime=GRID.minutes("ablate"),
    conda:
        ENVIRONMENT
    script:
        "../scripts/ablate.py"
