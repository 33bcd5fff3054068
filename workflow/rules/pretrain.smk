"""Clips -> world models, ours or the authors', and what these predict and represent."""


rule pretrain:
    """Learn a world model from the clips of a dataset."""
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
    threads: SIZES.runtime.threads
    resources:
        gpu=GPU,
    params:
        out=PRETRAIN,
    shell:
        "cwm pretrain {wildcards.dataset:q} {input.config:q} --clips {input.clips:q}"
        " --set pretrain.seed={wildcards.seed:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule convert:
    """Take over a world model that the authors have pre-trained."""
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
    """Predict held-out clips, and measure the errors."""
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
    """Average features of clips of two labels over time."""
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


rule pretrain_videos:
    """A model of one's own videos: snakemake --config videos=DIR -- pretrain_videos."""
    log:
        f"{RESULTS}/own/log.txt",
    threads: SIZES.runtime.threads
    resources:
        gpu=GPU,
    params:
        folder=lambda w: VIDEOS_OF_ONES_OWN,  # a text, whatever braces are in it
        scale=config["scale"],
        out=f"{RESULTS}/own",
    shell:
        "cwm videos --scale {params.scale:q} --out {params.out:q} -- {params.folder:q}"
        " 2>&1 | tee {log:q}"
