# Loss on held-out tokens with universal neurons, matched controls, doses and single neurons ablated.


rule ablate:
    input:
        models=lambda wildcards: model_directories(wildcards, wildcards.seeds.split("+")),
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        selection=f"{CORPUS}/selection.json",
        moments=of_seeds(MOMENTS),
        universality=BY_STEP.replace("{table}", "universality"),
    output:
        ablation=BY_BLOCK.replace("{table}", "ablation"),
        doses=BY_BLOCK.replace("{table}", "doses"),
        effects=BY_BLOCK.replace("{table}", "effects"),
    log:
        log_of("ablate/seeds{seeds}/step{step}"),
    benchmark:
        benchmark_of("ablate/seeds{seeds}/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("ablate")
    resources:
        **asks("ablate"),
    params:
        options={"options": config["ablation"], "load_options": LOAD},
        version=METHOD_VERSION["ablate"],
    script:
        "../scripts/ablate.py"
