# Activations, exact moments and within-layer sums of every (seed, step, shard), and the partial sums
# of pairs from them.


# The first shard's job also hashes the weights and fixes the codes of all shards: loading the
# model once more for that would cost a small study a fifth of its time.
rule capture_first:
    input:
        **CORPUS_SUBSETS,
        model=model_directories,
        weights=lambda wildcards: weights_files(model_directories(wildcards)),
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
    output:
        activations=activation_store(ACTIVATIONS.replace("{shard}", "0")),
        moments=directory(MOMENTS.replace("{shard}", "0")),
        within=directory(WITHIN.replace("{shard}", "0")),
        calibration=directory(CALIBRATION),
        model=MODEL_FACTS,
    log:
        f"{RESULTS}/logs/capture/seed{{seed}}/step{{step}}/shard0.log",
    benchmark:
        f"{RESULTS}/benchmarks/capture/seed{{seed}}/step{{step}}/shard0.tsv"
    conda:
        ENVIRONMENT
    threads: cost(GRID, "capture").threads
    resources:
        mem_mb=growing(cost(GRID, "capture").mem_mb),
        runtime=growing(cost(GRID, "capture").minutes),
    params:
        sequences=GRID.shard_range(0),
        capture=CAPTURE,
        version=METHOD_VERSION["capture"],
    script:
        "../scripts/capture.py"


use rule capture_first as capture with:
    input:
        **CORPUS_SUBSETS,
        model=model_directories,
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        calibration=CALIBRATION,
    output:
        activations=activation_store(ACTIVATIONS),
        moments=directory(MOMENTS),
        within=directory(WITHIN),
    log:
        f"{RESULTS}/logs/capture/seed{{seed}}/step{{step}}/shard{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/capture/seed{{seed}}/step{{step}}/shard{{shard}}.tsv"
    wildcard_constraints:
        shard=r"[1-9]\d*",
    params:
        sequences=lambda wildcards: GRID.shard_range(int(wildcards.shard)),
        capture=CAPTURE,
        version=METHOD_VERSION["capture"],


# Dropped activations, made once more for a seed that came later.
use rule capture_first as restore with:
    input:
        model=model_directories,
        tokens=f"{CORPUS}/tokens.npy",
        about=f"{CORPUS}/corpus.json",
        calibration=CALIBRATION,
    output:
        activations=temp(directory(RESTORED)),
    log:
        f"{RESULTS}/logs/restore/seed{{seed}}/step{{step}}/shard{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/restore/seed{{seed}}/step{{step}}/shard{{shard}}.tsv"
    params:
        sequences=lambda wildcards: GRID.shard_range(int(wildcards.shard)),
        capture=CAPTURE,
        version=METHOD_VERSION["capture"],


rule correlate:
    input:
        a=activations_of("seed", "other"),
        b=activations_of("other", "seed"),
    output:
        directory(SUMS),
    log:
        SUMS.replace(RESULTS, f"{RESULTS}/logs").replace(".zarr", ".log"),
    benchmark:
        SUMS.replace(RESULTS, f"{RESULTS}/benchmarks").replace(".zarr", ".tsv")
    conda:
        ENVIRONMENT
    threads: cost(GRID, "correlate").threads
    resources:
        mem_mb=growing(cost(GRID, "correlate").mem_mb),
        runtime=growing(cost(GRID, "correlate").minutes),
    params:
        layers=layers_of,
        kernel=config["correlate"]["kernel"],
        version=METHOD_VERSION["correlate"],
    script:
        "../scripts/correlate.py"
