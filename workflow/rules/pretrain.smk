"""Clips -> pre-trained world models and their predictions."""


rule pretrain:
    """Learn a world model from the clips of a dataset."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml", "config/model/{model}.yaml"],
        clips=f"{CLIPS}/store.json",
        tracking=ancient(TRACKING),
    output:
        f"{PRETRAIN}/weights.json",
    log:
        f"{PRETRAIN}/log.txt",
    benchmark:
        f"{PRETRAIN}/benchmark.tsv"
    params:
        out=PRETRAIN,
    shell:
        "cwm pretrain {wildcards.dataset} {input.config} --clips {input.clips}"
        " --out {params.out} 2>&1 | tee {log}"


rule predict:
    """Predict held-out clips, and measure the errors."""
    input:
        config=[SCALE, "config/dataset/{dataset}.yaml", "config/model/{model}.yaml"],
        clips=f"{CLIPS}/store.json",
        weights=f"{PRETRAIN}/weights.json",
    output:
        f"{PREDICT}/errors.csv",
    log:
        f"{PREDICT}/log.txt",
    benchmark:
        f"{PREDICT}/benchmark.tsv"
    params:
        out=PREDICT,
    shell:
        "cwm predict {wildcards.dataset} {input.config} --clips {input.clips}"
        " --weights {input.weights} --out {params.out} 2>&1 | tee {log}"
