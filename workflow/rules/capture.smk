# Activations, exact moments and within-layer sums of every (seed, step, shard).


# The first shard's job also hashes the weights and fixes the codes of all shards: loading the
# model once more for that would cost a small study a fifth of its time.
rule capture_first:
    input:
        **CORPUS_SUBSETS,
        model=model_directories,
        weights=lambda wildcards: weights_files(model_directories(wildcards)),
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        clusters=f"{CORPUS}/clusters.npy",
    output:
        activations=activation_store(ACTIVATIONS.replace("{shard}", "0")),
        moments=directory(MOMENTS.replace("{shard}", "0")),
        within=directory(WITHIN.replace("{shard}", "0")),
        classes=sum_store(CLASSES.replace("{shard}", "0")),
        calibration=directory(CALIBRATION),
        facts=MODEL_FACTS,
    log:
        log_of("capture/seed{seed}/step{step}/shard0"),
    benchmark:
        benchmark_of("capture/seed{seed}/step{step}/shard0")
    conda:
        ENVIRONMENT
    threads: threads_of("capture")
    resources:
        **asks("capture"),
    params:
        sequences=GRID.shard_range(0),
        capture=CAPTURE,
        version=METHOD_VERSION["capture"],
    script:
        "../scripts/capture_first.py"


rule capture:
    input:
        **CORPUS_SUBSETS,
        model=model_directories,
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        clusters=f"{CORPUS}/clusters.npy",
        calibration=CALIBRATION,
    output:
        activations=activation_store(ACTIVATIONS),
        moments=directory(MOMENTS),
        within=directory(WITHIN),
        classes=sum_store(CLASSES),
    log:
        log_of("capture/seed{seed}/step{step}/shard{shard}"),
    benchmark:
        benchmark_of("capture/seed{seed}/step{step}/shard{shard}")
    wildcard_constraints:
        shard=r"[1-9]\d*",
    conda:
        ENVIRONMENT
    threads: threads_of("capture")
    resources:
        **asks("capture"),
    params:
        sequences=lambda wildcards: GRID.shard_range(int(wildcards.shard)),
        capture=CAPTURE,
        version=METHOD_VERSION["capture"],
    script:
        "../scripts/capture.py"


# Dropped activations, made once more for a seed that came later.
rule restore:
    input:
        model=model_directories,
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        calibration=CALIBRATION,
    output:
        activations=temp(directory(RESTORED)),
    log:
        log_of("restore/seed{seed}/step{step}/shard{shard}"),
    benchmark:
        benchmark_of("restore/seed{seed}/step{step}/shard{shard}")
    conda:
        ENVIRONMENT
    threads: threads_of("capture")
    resources:
        **asks("capture"),
    params:
        sequences=lambda wildcards: GRID.shard_range(int(wildcards.shard)),
        capture=CAPTURE,
        version=METHOD_VERSION["capture"],
    script:
        "../scripts/restore.py"
