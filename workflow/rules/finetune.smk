"""World models -> agents and their scores, or models of recorded episodes; untrained policies.

Inputs: config/suite, config/model, config/variant; a pre-trained model, unless from scratch.
Outputs: results/<scale>/adapt/<recorded>/<dataset>/<model>/<seed>,
results/<scale>/finetune/<suite>/<task>/<model>/<dataset>/<variant>/<seed>,
results/<scale>/baselines/<suite>/<task>.
"""


rule finetune:
    """Learn a task by model-based RL, from a pre-trained world model or from scratch."""
    input:
        config=[
            "config/suite/{suite}.yaml",
            SCALE,
            "config/model/{model}.yaml",
            "config/variant/{variant}.yaml",
        ],
        pretrained=pretrained,
        tracking=ancient(TRACKING),
    output:
        f"{FINETUNE}/scores.csv",
        f"{FINETUNE}/episode.mp4",
        f"{FINETUNE}/weights.json",
        f"{FINETUNE}/card.md",
    log:
        f"{FINETUNE}/log.txt",
    benchmark:
        f"{FINETUNE}/benchmark.tsv"
    retries: CARLA_RETRIES
    threads: SIZES.runtime.threads
    resources:
        gpu=GPU,
    params:
        out=FINETUNE,
        pretrained=pretrained_option,
    shell:
        "cwm finetune {wildcards.suite:q}/{wildcards.task:q} {input.config:q}"
        " --seed {wildcards.seed:q} {params.pretrained} --out {params.out:q} 2>&1 | tee {log:q}"


rule adapt:
    """Train a world model with actions on recorded episodes, without an environment."""
    input:
        config=[SCALE, "config/dataset/{recorded}.yaml", "config/model/{model}.yaml"],
        recorded=f"{RESULTS}/clips/{{recorded}}/store.json",
        pretrained=pretrained,
        tracking=ancient(TRACKING),
    output:
        f"{ADAPT}/action_errors.csv",
        f"{ADAPT}/weights.json",
        f"{ADAPT}/card.md",
    log:
        f"{ADAPT}/log.txt",
    benchmark:
        f"{ADAPT}/benchmark.tsv"
    threads: SIZES.runtime.threads
    resources:
        gpu=GPU,
    params:
        out=ADAPT,
        pretrained=pretrained_option,
    shell:
        "cwm adapt {wildcards.recorded:q} {input.config:q} --recorded {input.recorded:q}"
        " --seed {wildcards.seed:q} {params.pretrained} --out {params.out:q} 2>&1 | tee {log:q}"


rule baselines:
    """Score random, constant and untrained policies on a task."""
    input:
        config=["config/suite/{suite}.yaml", SCALE, "config/model/contextwm.yaml"],
    output:
        f"{BASELINES}/scores.csv",
    log:
        f"{BASELINES}/log.txt",
    benchmark:
        f"{BASELINES}/benchmark.tsv"
    threads: SIZES.runtime.threads
    resources:
        gpu=GPU,
    params:
        out=BASELINES,
    shell:
        "cwm baselines {wildcards.suite:q}/{wildcards.task:q} {input.config:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule tracking:
    """Create the MLflow database before parallel jobs log to it."""
    output:
        touch(TRACKING),
    log:
        "results/mlflow/log.txt",
    shell:
        "cwm tracking-init 2>&1 | tee {log:q}"
