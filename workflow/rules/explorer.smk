# A folder of pages in which single neurons are looked at.

# What they show.
EXPLORED = ["universality", "matches", "groups", "effects", "neurons", "trajectories", "models"]
EXPLORED += ["roles", "families", "examples", "contexts", "histograms", "activating_tokens"]
EXPLORED += ["vocabulary"]


rule explorer:
    input:
        tables=expand(f"{RESULTS}/{{table}}.parquet", table=EXPLORED),
        about=f"{CORPUS}/corpus.json",
    output:
        # The folder is replaced with it.
        f"{RESULTS}/explorer/index.html",
    log:
        log_of("explorer"),
    benchmark:
        benchmark_of("explorer")
    conda:
        ENVIRONMENT
    threads: threads_of("explorer")
    resources:
        **asks("explorer"),
    params:
        seeds=GRID.seeds,
        universality=config["universality"],
        version=METHOD_VERSION["explorer"],
    script:
        "../scripts/explorer.py"
