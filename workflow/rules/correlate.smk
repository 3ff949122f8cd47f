# Partial sums of pairs, their merge into best matches, and the scores of every step.


rule correlate:
    input:
        a=ACTIVATIONS,
        b=ACTIVATIONS.replace("{seed}", "{other}"),
    output:
        directory(SUMS),
    log:
        SUMS.replace(RESULTS, f"{RESULTS}/logs").replace(".zarr", ".log"),
    benchmark:
        SUMS.replace(RESULTS, f"{RESULTS}/benchmarks").replace(".zarr", ".tsv")
    conda:
        ENVIRONMENT
    threads: GRID.threads("correlate")
    resources:
        mem_mb=GRID.mem_mb("correlate"),
        runtime=GRID.minutes("correlate"),
    params:
        layers=layers_of,
        kernel=config["correlate"]["kernel"],
        version=METHOD_VERSION["correlate"],
    script:
        "../scripts/correlate.py"


rule match:
    input:
        sums=shards(SUMS),
        moments_a=shards(MOMENTS),
        moments_b=shards(MOMENTS.replace("{seed}", "{other}")),
        within_a=shards(WITHIN),
        within_b=shards(WITHIN.replace("{seed}", "{other}")),
        calibration_a=CALIBRATION,
        calibration_b=CALIBRATION.replace("{seed}", "{other}"),
    output:
        directory(MATCHES),
    log:
        MATCHES.replace(RESULTS, f"{RESULTS}/logs").replace(".zarr", ".log"),
    benchmark:
        MATCHES.replace(RESULTS, f"{RESULTS}/benchmarks").replace(".zarr", ".tsv")
    conda:
        ENVIRONMENT
    threads: GRID.threads("match")
    resources:
        mem_mb=GRID.mem_mb("match"),
        runtime=GRID.minutes("match"),
    params:
        layers=layers_of,
        baseline=config["baseline"],
        version=METHOD_VERSION["match"],
    script:
        "../scripts/match.py"


rule score:
    input:
        pair_parts,
    output:
        matches=BY_STEP.replace("{table}", "matches"),
        universality=BY_STEP.replace("{table}", "universality"),
    log:
        f"{RESULTS}/logs/score/step{{step}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/score/step{{step}}.tsv"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        threshold=config["universality"]["excess_threshold"],
        version=METHOD_VERSION["score"],
    script:
        "../scripts/score.py"
