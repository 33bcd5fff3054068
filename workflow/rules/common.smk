"""Paths of results, and the runs that each figure needs."""

import os
import shlex
import sys

from cwm.commands.own import check_folder, listing_hash, typed_values
from cwm.config import load as load_settings
from cwm.infra.errors import UserError
from cwm.study import SHADOWS, datasets, load, mixtures, recorded
from cwm.study_file import (
    OFFICIAL,
    PUBLISHED,
    adapted_runs,
    finetune_runs,
    pretrained_runs,
    published_weights,
    videos_of,
)
from cwm.videos.datasets import folder_of

config |= typed_values(workflow.config_settings.config_args)
try:
    OWN_VIDEOS = check_folder(config.get("videos") or "data/videos")
    STUDY = load(config["scale"])
    for target in sys.argv[1:]:
        if target.startswith("fig_") and target != "fig_videos":
            STUDY.figure(target.removeprefix("fig_"))
except UserError as error:
    print(f"cwm: {error}", file=sys.stderr)
    sys.exit(2)

# Each scale has its own results folder.
RESULTS = f"results/{config['scale']}"
SCALE = f"config/scale/{config['scale']}.yaml"

# Snakemake counts GPUs (or requests them from a cluster); cwm/infra/device.py assigns them to jobs.
os.environ.setdefault("CWM_JOBS_PER_GPU", str(config["jobs_per_gpu"]))
SIZES = load_settings([Path(SCALE)])
GPU = 0 if SIZES.runtime.device == "cpu" else 1
DEVICES, NODES = SIZES.pretrain.devices, SIZES.pretrain.nodes
# One task for each node of a pre-training on several; `mpi` leaves their start to `cwm pretrain`.
TASKS = {"nodes": NODES, "tasks": NODES, "tasks_per_gpu": 0, "mpi": "srun"} if NODES > 1 else {}
STANDINS = SIZES.dataset.source == "standin"

# Mixture -> its member datasets, whose clip stores it refers to.
MIXTURES = mixtures()

RECORDED = recorded()  # datasets of recorded episodes, which have no videos to decode
WITHOUT_VIDEOS = "|".join([*MIXTURES, *RECORDED])

# One folder per run; its path names its settings.
VIDEOS = f"{RESULTS}/videos/{{dataset}}"
CLIPS = f"{RESULTS}/clips/{{dataset}}"
PART = f"{CLIPS}/part-{{part}}"
FIRST = f"{CLIPS}/first-{{parts}}"  # a store of the first parts only
AUTHORS = "data/{dataset}/{model}"  # the authors' weights, put there by hand
PRETRAIN = f"{RESULTS}/pretrain/{{dataset}}/{{model}}/{{seed}}"
PREDICT = f"{RESULTS}/predict/{{dataset}}/{{model}}/{{seed}}"
REPRESENT = f"{RESULTS}/represent/{{dataset}}/{{model}}/{{seed}}"
INVARIANCE = f"{RESULTS}/invariance/{{dataset}}/{{model}}/{{seed}}"
ADAPT = f"{RESULTS}/adapt/{{recorded}}/{{dataset}}/{{model}}/{{seed}}"
BASELINES = f"{RESULTS}/baselines/{{suite}}/{{task}}"
FINETUNE = f"{RESULTS}/finetune/{{suite}}/{{task}}/{{model}}/{{dataset}}/{{variant}}/{{seed}}"
SCORES = f"{RESULTS}/scores/{{figure}}.csv"
TABLE = f"{RESULTS}/tables/{{figure}}"
FIGURE = f"{RESULTS}/figures/{{figure}}"
REPORT = f"{RESULTS}/report.html"
TRACKING = "results/mlflow/ready"


wildcard_constraints:
    parts=r"\d+",
    dataset="[a-z0-9-]+",
    figure="|".join(STUDY.figures),
    model="[a-z0-9-]+",
    part=r"\d{3}\d*",
    recorded="|".join(RECORDED),
    seed=r"\d+",
    suite="[a-z0-9-]+",
    task="[a-z0-9-]+",
    variant="[a-z0-9-]+",


TABLED = (
    "curves",
    "domains",
    "ablations",
    "comparisons",
    "cost",
)  # kinds of figures that have a table


def figures_of(*kinds):
    """Names of the figures of the given kinds."""
    return [name for name, figure in STUDY.figures.items() if figure.kind in kinds]


DRAWN = [name for name in STUDY.figures if name not in figures_of("cost")]  # others: a table only


def runs_of(figure, template):
    """Paths of the fine-tuning runs that a figure compares; `template` has their wildcards."""
    runs = finetune_runs(STUDY.figures[figure])
    return sorted({template.format(**run._asdict()) for run in runs})


# A dead CARLA server ends its run, and a retry resumes from the last checkpoint.
USES_CARLA = any(r.suite == "carla" for f in STUDY.figures.values() for r in finetune_runs(f))
CARLA_RETRIES = 10 if USES_CARLA else None  # None: the value of the profile


def models_of(figure, template):
    """Paths of the pre-trained models that a figure shows; `template` has their wildcards."""
    runs = pretrained_runs(STUDY.figures[figure])
    return [template.format(**run._asdict()) for run in runs]


def adapted_of(figure, template):
    """Paths of the adapted models that a figure shows; `template` has their wildcards."""
    return [template.format(**run._asdict()) for run in adapted_runs(STUDY.figures[figure])]


def everywhere(paths_of, template):
    """Paths of all figures, without repetition."""
    return sorted({path for name in STUDY.figures for path in paths_of(name, template)})


def dataset_settings(name):
    """The settings of a dataset."""
    return load_settings([Path(SCALE), Path(f"config/dataset/{name}.yaml")]).dataset


def parts_of(wildcards, first=None):
    """The decoded parts of a dataset that its store needs; `first`: that many parts only."""
    data = dataset_settings(wildcards.dataset)
    parts = range(data.parts)[:first] if first else data.only_parts or range(data.parts)
    path = f"{PART}/part.parquet".replace("{dataset}", wildcards.dataset)
    return [path.format(part=f"{part:03d}") for part in parts]


def stores_of(wildcards):
    """The store of each member of a mixture: of the whole dataset, or of its first parts."""
    members = dataset_settings(wildcards.dataset).members
    folders = (FIRST if member.first_parts else CLIPS for member in members)
    places = [{"dataset": x.dataset, "parts": x.first_parts} for x in members]
    return [f"{x}/store.json".format(**place) for x, place in zip(folders, places)]


def own_videos(wildcards):
    """Option with the folder of the dataset `videos`; config/dataset has those of others."""
    return f"--folder {shlex.quote(OWN_VIDEOS)}" if wildcards.dataset == "videos" else ""


def own_files(wildcards):
    """Changes when files of the dataset `videos` do, so that they are listed again."""
    return listing_hash(OWN_VIDEOS) if wildcards.dataset == "videos" else ""


def recording(wildcards):
    """Folder of recorded episodes: generated ones, or `dataset.folder`."""
    data = dataset_settings(wildcards.dataset)
    if data.source == "standin":
        return VIDEOS.format(**wildcards)
    return str(folder_of(wildcards.dataset, data))


def generated(wildcards):
    """The last file of a generated stand-in of recorded episodes; nothing for real ones."""
    made = recording(wildcards) == VIDEOS.format(**wildcards)
    return f"{VIDEOS}/videos.json".format(**wildcards) if made else []


def pretrained(wildcards):
    """The world model that a run starts from; nothing when it learns from scratch."""
    model = STUDY.initial_model(wildcards.dataset, wildcards.model, int(wildcards.seed))
    if model is None:
        return []
    if model.dataset.startswith(PUBLISHED):
        return published_weights(model)
    return f"{PRETRAIN}/weights.json".format(**model._asdict())


def pretrained_option(wildcards, input):
    """The option that names this world model."""
    return f"--pretrained {input.pretrained}" if input.pretrained else ""


def costly(figure):
    """The last file of every run whose cost a figure shows."""
    models = [f"{PRETRAIN}/weights.json", f"{PREDICT}/errors.csv"]
    files = [path for last in models for path in models_of(figure, last)]
    return files + runs_of(figure, f"{FINETUNE}/scores.csv")


def tabled(wildcards):
    """Inputs of a table: scores, or the runs whose cost it shows."""
    costs = wildcards.figure in figures_of("cost")
    return costly(wildcards.figure) if costs else SCORES


def drawn_from(wildcards):
    """Inputs of a figure: its table and scores, or runs."""
    match STUDY.figures[wildcards.figure].kind:
        case "curves" | "domains" | "ablations" | "comparisons":
            return [f"{TABLE}.csv", SCORES]
        case "pretraining":
            return models_of(wildcards.figure, f"{PRETRAIN}/weights.json")
        case "prediction" | "prediction_errors" | "composition":
            return models_of(wildcards.figure, f"{PREDICT}/errors.csv")
        case "representations":
            return models_of(wildcards.figure, f"{REPRESENT}/features.npz")
        case "adaptation":
            return adapted_of(wildcards.figure, f"{ADAPT}/action_errors.csv")
        case "invariance":
            return models_of(wildcards.figure, f"{INVARIANCE}/invariance.csv")
