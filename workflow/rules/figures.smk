"""Scores -> tables -> figures -> report.

Inputs: run folders; config/study/<scale>.yaml, which lists the runs of each figure.
Outputs: results/<scale>/{scores,tables,figures}/<figure>.*, results/<scale>/report.html.
"""


rule scores:
    """Collect the scores of the runs that a figure compares."""
    input:
        runs=lambda w: runs_of(w.figure, f"{FINETUNE}/scores.csv"),
        baselines=lambda w: runs_of(w.figure, f"{BASELINES}/scores.csv"),
    output:
        SCORES,
    log:
        f"{RESULTS}/logs/scores-{{figure}}.txt",
    shell:
        "cwm scores {input:q} --out {output:q} 2>&1 | tee {log:q}"


rule table:
    """Aggregate scores (interquartile mean, confidence interval, area under the curve) or costs."""
    input:
        made_of=tabled,
        study=f"config/study/{config['scale']}.yaml",
    output:
        multiext(TABLE, ".csv", ".md", ".tex"),
    log:
        f"{RESULTS}/logs/table-{{figure}}.txt",
    params:
        out=TABLE,
    shell:
        "cwm table {wildcards.figure:q} {input.made_of:q} --study {input.study:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule figure:
    """Draw one figure."""
    input:
        drawn_from=drawn_from,
        study=f"config/study/{config['scale']}.yaml",
    output:
        pdf=f"{FIGURE}.pdf",
        png=report(
            f"{FIGURE}.png",
            category="Figures",
            labels={"figure": "{figure}"},
            caption="../report/figure.rst",
        ),
        about=f"{FIGURE}.json",
    log:
        f"{RESULTS}/logs/figure-{{figure}}.txt",
    wildcard_constraints:
        figure="|".join(DRAWN),
    params:
        out=FIGURE,
    shell:
        "cwm figure {wildcards.figure:q} {input.drawn_from:q} --study {input.study:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule report:
    """Write one self-contained page with all results."""
    input:
        figures=expand(f"{FIGURE}.json", figure=DRAWN),
        tables=expand(f"{TABLE}.md", figure=figures_of(*TABLED)),
        stores=expand(f"{CLIPS}/store.json", dataset=datasets(STUDY)),
        episodes=everywhere(runs_of, f"{FINETUNE}/episode.mp4"),
        models=everywhere(models_of, f"{PRETRAIN}/weights.json"),
        tracking=ancient(TRACKING),
    output:
        REPORT,
    log:
        f"{RESULTS}/logs/report.txt",
    shell:
        "cwm report {input.figures:q} {input.tables:q} {input.stores:q} {input.episodes:q}"
        " {input.models:q} --out {output:q} 2>&1 | tee {log:q}"


for name in STUDY.figures:

    rule:
        """Draw one figure and its table: `snakemake fig_<figure>`."""
        name:
            f"fig_{name}"
        input:
            expand(
                f"{FIGURE}.pdf",
                figure=[name] if name in DRAWN else [],
            ),
            expand(
                f"{TABLE}.md",
                figure=[name] if name in figures_of(*TABLED) else [],
            ),
