"""Published runs -> figures, without torch.

Inputs: results/published/<study>, with the study.yaml that its runs were made for.
Outputs: results/published-figures/<study>.
"""

PUBLISHED_RUNS = "results/published/{published}"
REDRAWN = "results/published-figures/{published}"


rule published_figures:
    """Draw the figures of all published runs: `snakemake --cores 1 published_figures`."""
    input:
        expand(
            REDRAWN,
            published=sorted(path.name for path in Path("results/published").glob("*")),
        ),


rule redraw:
    """Draw the figures of a study from its published runs; captions list missing runs."""
    input:
        runs=lambda w: sorted(str(path) for path in Path(PUBLISHED_RUNS.format(**w)).rglob("*.*")),
        study=f"{PUBLISHED_RUNS}/study.yaml",
    output:
        directory(REDRAWN),
    log:
        "results/logs/redraw-{published}.txt",
    wildcard_constraints:
        published="[a-z0-9-]+",
    localrule: True
    params:
        results=lambda w, input: str(Path(input.study).parent),
    shell:
        "cwm redraw {params.results:q} --study {input.study:q} --out {output:q} 2>&1 | tee {log:q}"
