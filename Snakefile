from snakemake.utils import min_version

min_version("9.27")


# Another file given by --configfile stands alone: what it leaves out has the schema's defaults, not
# the demo's values.
if not workflow.configfiles:

    configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/prepare.smk"


if config["capture"]["store"]:

    include: "workflow/rules/capture.smk"

else:

    include: "workflow/rules/direct.smk"


include: "workflow/rules/correlate.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/ablate.smk"
include: "workflow/rules/persist.smk"
include: "workflow/rules/describe.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/explorer.smk"


report: "workflow/report/workflow.rst"


onstart:
    check_writable(RESULTS)
    print(summary(GRID), *shards_note(GRID), *classes_note(GRID), *notes(config), sep="\n")
    if workflow.local_exec:
        run_scripts_as_forks()


onsuccess:
    if Path(f"{RESULTS}/report.html").exists():
        print(f"The report is in {RESULTS}/report.html")
    if Path(f"{RESULTS}/explorer/index.html").exists():
        print(f"Its neurons are in {RESULTS}/explorer/index.html")


rule all:
    default_target: True
    input:
        expand(f"{RESULTS}/{{table}}.parquet", table=[*TABLES, *DESCRIBED]),
        f"{RESULTS}/report.html",
        f"{RESULTS}/explorer/index.html",
        # The page has them in it, but a page alone is half a report.
        expand(f"{RESULTS}/figures/{{name}}.{{kind}}", name=FIGURES, kind=["svg", "png"]),
