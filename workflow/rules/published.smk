"""results/published -> figures. Reads no settings, so it works without torch."""

PUBLISHED = "results/published/{published}"
REDRAWN = "results/published-figures/{published}"


rule published_figures:
    """The figures of all published runs: `snakemake --cores 1 published_figures`."""
    input:
        expand(
            REDRAWN,
            published=sorted(path.name for path in Path("results/published").glob("*")),
        ),


rule redraw:
    """Draw a study's figures from the runs of it that are published; the missing are named."""
    input:
        runs=lambda w: sorted(str(path) for path in Path(PUBLISHED.format(**w)).rglob("*.*")),
        study="config/study/{published}.yaml",
    output:
        directory(REDRAWN),
    log:
        "results/logs/redraw-{published}.txt",
    wildcard_constraints:
        published="[a-z0-9-]+",
    localrule: True
    params:
        results=PUBLISHED,
    shell:
        "cwm redraw {params.results:q} --study {input.study:q} --out {output:q} 2>&1 | tee {log:q}"
