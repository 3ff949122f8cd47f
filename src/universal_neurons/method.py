"""Versions of the method, which results depend on."""

# Version of the method behind each kind of result. A change here makes Snakemake run again what
# depends on it; a change of code that can't change results leaves it alone.
METHOD_VERSION = {
    "corpus": 1,
    "train": 1,
    "fetch": 1,
    "capture": 1,
    "correlate": 1,
    "rotate": 1,
    "match": 2,
    "screen": 1,
    "influence": 1,
    "permuted": 1,
    "untrained": 1,
    "score": 3,
    "ablate": 2,
    "persist": 2,
    "trace": 1,
    "report": 2,
}
