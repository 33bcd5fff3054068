"""Where things lie, and which runs a figure needs."""

import os
import re
import sys

from cwm.config import load as load_settings
from cwm.infra.errors import UserError, check_utf8
from cwm.study import (
    OFFICIAL,
    SCRATCH,
    datasets,
    finetune_runs,
    load,
    made_of_others,
    pretrained_runs,
    videos_of,
)

# Snakemake reads `name=value` as a number, a boolean or YAML; folders and scales stay texts.
for word in workflow.config_settings.config_args:
    name, _, value = word.partition("=")
    if name in ("scale", "videos"):
        config[name] = re.sub(r"^(['\"])(.*)\1$", r"\2", value, flags=re.DOTALL)

try:
    VIDEOS_OF_ONES_OWN = config.get("videos") or "data/videos"
    if not isinstance(VIDEOS_OF_ONES_OWN, str):
        raise UserError(f"videos is {VIDEOS_OF_ONES_OWN!r}, not a folder; write it in quotes")
    check_utf8(VIDEOS_OF_ONES_OWN)
    STUDY = load(config["scale"])
    for target in sys.argv[1:]:
        if target.startswith("fig_"):
            STUDY.figure(target.removeprefix("fig_"))
except UserError as error:
    print(f"cwm: {error}", file=sys.stderr)
    sys.exit(2)

# The results of another scale stay where they are.
RESULTS = f"results/{config['scale']}"
SCALE = f"config/scale/{config['scale']}.yaml"

# Cards are handed out by cwm/infra/device.py; Snakemake only counts them, and clusters are asked for them.
os.environ.setdefault("CWM_JOBS_PER_GPU", str(config["jobs_per_gpu"]))
SIZES = load_settings([Path(SCALE)])
GPU = 0 if SIZES.runtime.device == "cpu" else 1
STANDINS = SIZES.dataset.source == "standin"

# The datasets whose clips are other datasets', which then make them.
MADE_OF_OTHERS = made_of_others()

# One folder per run: everything about a run is inside it, and its path spells its settings.
VIDEOS = f"{RESULTS}/videos/{{dataset}}"
CLIPS = f"{RESULTS}/clips/{{dataset}}"
PART = f"{CLIPS}/part-{{part}}"
AUTHORS = "data/{dataset}/{model}"  # where a person has put the authors' weights
PRETRAIN = f"{RESULTS}/pretrain/{{dataset}}/{{model}}/{{seed}}"
FIRST = PRETRAIN.replace("{seed}", "0")  # which fine-tuning begins with, whatever its own seed
PREDICT = f"{RESULTS}/predict/{{dataset}}/{{model}}/{{seed}}"
REPRESENT = f"{RESULTS}/represent/{{dataset}}/{{model}}/{{seed}}"
BASELINES = f"{RESULTS}/baselines/{{suite}}/{{task}}"
FINETUNE = f"{RESULTS}/finetune/{{suite}}/{{task}}/{{model}}/{{dataset}}/{{variant}}/{{seed}}"
SCORES = f"{RESULTS}/scores/{{figure}}.csv"
TABLE = f"{RESULTS}/tables/{{figure}}"
FIGURE = f"{RESULTS}/figures/{{figure}}"
REPORT = f"{RESULTS}/report.html"
TRACKING = "results/mlflow/ready"


wildcard_constraints:
    dataset="[a-z0-9-]+",
    figure="|".join(STUDY.figures),
    model="[a-z0-9-]+",
    part=r"\d{3}",
    seed=r"\d+",
    suite="[a-z0-9-]+",
    task="[a-z0-9-]+",
    variant="[a-z0-9-]+",


TABLED = ("curves", "domains", "ablations", "cost")  # kinds of figures that have a table


def figures_of(*kinds):
    """Names of the figures of some kinds."""
    return [name for name, figure in STUDY.figures.items() if figure.kind in kinds]


DRAWN = [name for name in STUDY.figures if name not in figures_of("cost")]  # others: a table only


def runs_of(figure, template):
    """Paths of the fine-tuning runs that a figure compares."""
    runs = finetune_runs(STUDY.figures[figure])
    return sorted({template.format(**run._asdict()) for run in runs})


# A dead CARLA server ends its run, and a retry resumes from the last checkpoint.
USES_CARLA = any(r.suite == "carla" for f in STUDY.figures.values() for r in finetune_runs(f))
CARLA_RETRIES = 10 if USES_CARLA else 0


def models_of(figure, template):
    """Paths of the pre-trained models that a figure shows."""
    runs = pretrained_runs(STUDY.figures[figure])
    return [template.format(**run._asdict()) for run in runs]


def everywhere(paths_of, template):
    """Paths of all figures together, each once."""
    return sorted({path for name in STUDY.figures for path in paths_of(name, template)})


def not_any(names):
    """A wildcard constraint of a folder's name: any word but these."""
    return rf"(?!(?:{'|'.join(names)})/)[a-z0-9-]+"


def parts_of(wildcards):
    """The parts among which the decoding of a dataset is divided."""
    files = [Path(SCALE), Path(f"config/dataset/{wildcards.dataset}.yaml")]
    parts = load_settings(files).dataset.parts
    return [f"{PART}/part.jsonl".format(part=f"{i:03d}", **wildcards) for i in range(parts)]


def pretrained(wildcards):
    """The world model a run begins with, or nothing when it learns from scratch."""
    return [] if wildcards.dataset == SCRATCH else f"{FIRST}/weights.json"


def pretrained_option(wildcards, input):
    """The same, as an option of the command."""
    return f"--pretrained {input.pretrained}" if input.pretrained else ""


def costly(figure):
    """The runs whose time a figure shows, by their last files."""
    models = [f"{PRETRAIN}/weights.json", f"{PREDICT}/errors.csv"]
    files = [path for last in models for path in models_of(figure, last)]
    return files + runs_of(figure, f"{FINETUNE}/scores.csv")


def tabled(wildcards):
    """What a table is made of: scores, or the runs whose time it shows."""
    costs = wildcards.figure in figures_of("cost")
    return costly(wildcards.figure) if costs else SCORES


def drawn_from(wildcards):
    """What a figure is drawn from: its table and scores, or runs."""
    match STUDY.figures[wildcards.figure].kind:
        case "curves" | "domains" | "ablations":
            return [f"{TABLE}.csv", SCORES]
        case "pretraining":
            return models_of(wildcards.figure, f"{PRETRAIN}/weights.json")
        case "prediction" | "prediction_errors" | "composition":
            return models_of(wildcards.figure, f"{PREDICT}/errors.csv")
        case "representations":
            return models_of(wildcards.figure, f"{REPRESENT}/features.npz")
