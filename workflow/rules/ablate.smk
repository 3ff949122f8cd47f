# Loss on held-out tokens with universal neurons, matched controls, doses and single neurons ablated.

OPERATED = {
    "model": model_directories,
    "tokens": f"{CORPUS}/tokens.npy",
    "clusters": f"{CORPUS}/clusters.npy",
    "about": f"{CORPUS}/corpus.json",
    "selection": f"{CORPUS}/selection.json",
    "moments": shards(MOMENTS),
}
ACCURACY = {key: config["ablation"][key] for key in ("dtype", "target_se")}


rule ablate:
    input:
        **OPERATED,
        universality=BY_STEP.replace("{table}", "universality"),
    output:
        ABLATION,
    log:
        log_of("ablate/{kind}/seed{seed}/step{step}"),
    benchmark:
        benchmark_of("ablate/{kind}/seed{seed}/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("ablate")
    resources:
        **asks("ablate"),
    params:
        options=lambda wildcards: {
            "kinds": [wildcards.kind],
            "controls": config["ablation"]["controls"],
            "random_seed": config["ablation"]["seed"],
        },
        accuracy=ACCURACY,
        load=LOAD,
        version=METHOD_VERSION["ablate"],
    script:
        "../scripts/ablate.py"


rule doses:
    input:
        **OPERATED,
        universality=BY_STEP.replace("{table}", "universality"),
    output:
        BY_MODEL.replace("{table}", "doses"),
    log:
        log_of("doses/seed{seed}/step{step}"),
    benchmark:
        benchmark_of("doses/seed{seed}/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("doses")
    resources:
        **asks("doses"),
    params:
        options=lambda wildcards: {
            "kind": KINDS[0],
            "random_seed": config["ablation"]["seed"],
        },
        accuracy=ACCURACY,
        load=LOAD,
        version=METHOD_VERSION["ablate"],
    script:
        "../scripts/doses.py"


# Nothing here depends on the scores, so that another seed makes no model's effects again.
rule effects:
    input:
        **OPERATED,
    output:
        BY_MODEL.replace("{table}", "single"),
    log:
        log_of("effects/seed{seed}/step{step}"),
    benchmark:
        benchmark_of("effects/seed{seed}/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("effects")
    resources:
        **asks("effects"),
    params:
        options={
            "random_seed": config["ablation"]["seed"],
            "dtype": config["ablation"]["dtype"],
        },
        load=LOAD,
        version=METHOD_VERSION["ablate"],
    script:
        "../scripts/effects.py"


# Of neurons by their role, whatever their scores.
rule mediate:
    input:
        **OPERATED,
        roles=BY_MODEL.replace("{table}", "roles"),
    output:
        BY_MODEL.replace("{table}", "mediation"),
    log:
        log_of("mediate/seed{seed}/step{step}"),
    benchmark:
        benchmark_of("mediate/seed{seed}/step{step}")
    conda:
        ENVIRONMENT
    threads: threads_of("mediate")
    resources:
        **asks("mediate"),
    params:
        options={
            "random_seed": config["ablation"]["seed"],
            "tokens": config["ablation"]["mediation_tokens"],
        },
        load=LOAD,
        version=METHOD_VERSION["ablate"],
    script:
        "../scripts/mediate.py"
