"""Clips -> pre-trained world models, their predictions and their features.

Inputs: clip stores, or the authors' weights in data/official-<dataset>/<model>; config/model.
Outputs: results/<scale>/{pretrain,predict,represent,invariance}/<dataset>/<model>/<seed>.
"""

OWN = {"dataset": "videos", "model": "contextwm", "seed": 0}  # the model of your own videos


rule pretrain:
    """Pre-train a world model on the clips of a dataset."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml", "config/model/{model}.yaml"],
        clips=f"{CLIPS}/store.json",
        tracking=ancient(TRACKING),
    output:
        f"{PRETRAIN}/weights.json",
        f"{PRETRAIN}/card.md",
    log:
        f"{PRETRAIN}/log.txt",
    benchmark:
        f"{PRETRAIN}/benchmark.tsv"
    wildcard_constraints:
        dataset=f"(?!{OFFICIAL})[a-z0-9-]+",
    threads: SIZES.runtime.threads * DEVICES
    resources:
        **TASKS,
        gpu=GPU * DEVICES * NODES,
    params:
        out=PRETRAIN,
    shell:
        "cwm pretrain {wildcards.dataset:q} {input.config:q} --clips {input.clips:q}"
        " --set pretrain.seed={wildcards.seed:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule convert:
    """Convert a world model that the authors pre-trained."""
    input:
        config=[SCALE, "config/model/{model}.yaml"],
        official=multiext(
            f"{AUTHORS}/",
            "encoder_variables.pt",
            "decoder_variables.pt",
            "rssm_variables.pt",
        ),
        tracking=ancient(TRACKING),
    output:
        f"{PRETRAIN}/weights.json",
        f"{PRETRAIN}/card.md",
    log:
        f"{PRETRAIN}/log.txt",
    wildcard_constraints:
        dataset=f"{OFFICIAL}[a-z0-9-]+",
        seed="0",
    params:
        source=lambda w, input: Path(input.official[0]).parent,
        out=PRETRAIN,
    shell:
        "cwm convert {params.source:q} {input.config:q} --dataset {wildcards.dataset:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule predict:
    """Predict held-out clips and measure the errors."""
    input:
        config=lambda w: [
            SCALE,
            f"config/dataset/{videos_of(w.dataset)}.yaml",
            f"config/model/{w.model}.yaml",
        ],
        clips=lambda w: f"{CLIPS}/store.json".format(dataset=videos_of(w.dataset)),
        weights=f"{PRETRAIN}/weights.json",
    output:
        f"{PREDICT}/errors.csv",
    log:
        f"{PREDICT}/log.txt",
    benchmark:
        f"{PREDICT}/benchmark.tsv"
    threads: SIZES.runtime.threads
    resources:
        gpu=GPU,
    params:
        out=PREDICT,
    shell:
        "cwm predict {wildcards.dataset:q} {input.config:q} --clips {input.clips:q}"
        " --weights {input.weights:q} --set pretrain.seed={wildcards.seed:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule represent:
    """Write time-averaged features of clips with two labels."""
    input:
        config=lambda w: [
            SCALE,
            f"config/dataset/{videos_of(w.dataset)}.yaml",
            f"config/model/{w.model}.yaml",
        ],
        clips=lambda w: f"{CLIPS}/store.json".format(dataset=videos_of(w.dataset)),
        weights=f"{PRETRAIN}/weights.json",
    output:
        f"{REPRESENT}/features.npz",
    log:
        f"{REPRESENT}/log.txt",
    benchmark:
        f"{REPRESENT}/benchmark.tsv"
    threads: SIZES.runtime.threads
    resources:
        gpu=GPU,
    params:
        out=REPRESENT,
    shell:
        "cwm represent {wildcards.dataset:q} {input.config:q} --clips {input.clips:q}"
        " --weights {input.weights:q} --set pretrain.seed={wildcards.seed:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule invariance:
    """Measure whether latents follow motion or appearance."""
    input:
        config=lambda w: [
            SCALE,
            f"config/dataset/{videos_of(w.dataset)}.yaml",
            f"config/model/{w.model}.yaml",
        ],
        clips=f"{CLIPS}/store.json".format(dataset=SHADOWS),
        weights=f"{PRETRAIN}/weights.json",
    output:
        f"{INVARIANCE}/invariance.csv",
    log:
        f"{INVARIANCE}/log.txt",
    benchmark:
        f"{INVARIANCE}/benchmark.tsv"
    threads: SIZES.runtime.threads
    resources:
        gpu=GPU,
    params:
        out=INVARIANCE,
    shell:
        "cwm invariance {wildcards.dataset:q} {input.config:q} --clips {input.clips:q}"
        " --weights {input.weights:q} --set pretrain.seed={wildcards.seed:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule fig_videos:
    """Draw the predictions of your own videos."""
    input:
        errors=f"{PREDICT}/errors.csv".format(**OWN),
        study="config/videos.yaml",
    output:
        multiext(f"{RESULTS}/figures/videos", ".pdf", ".png", ".json"),
    log:
        f"{RESULTS}/logs/figure-videos.txt",
    params:
        out=subpath(output[0], strip_suffix=".pdf"),
    shell:
        "cwm figure videos {input.errors:q} --study {input.study:q} --out {params.out:q}"
        " 2>&1 | tee {log:q}"


rule pretrain_videos:
    """Pre-train ContextWM on your own videos: snakemake --config videos=DIR -- pretrain_videos."""
    input:
        figure=f"{RESULTS}/figures/videos.json",
        store=f"{CLIPS}/store.json".format(**OWN),
        weights=f"{PRETRAIN}/weights.json".format(**OWN),
    output:
        f"{RESULTS}/videos.html",
    log:
        f"{RESULTS}/logs/videos.txt",
    shell:
        "cwm report {input:q} --out {output:q} 2>&1 | tee {log:q}"
