"""The settings, identity and folder of a run, from the arguments of its command."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from cwm.config import Config, labels, load, resolved
from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.files import sha256
from cwm.infra.ranks import started_rank
from cwm.infra.run_dir import FollowedRun, RunDir, RunSpec
from cwm.infra.store_json import read_store
from cwm.study_file import PUBLISHED
from cwm.train.environment import suite_and_task

SECTIONS = {  # sections of the settings that each stage reads
    "pretrain": ("runtime", "model", "pretrain"),
    "predict": ("runtime", "model", "pretrain", "predict"),
    "represent": ("runtime", "model", "pretrain", "represent"),
    "invariance": ("runtime", "model", "pretrain", "invariance"),
    "adapt": ("runtime", "model", "finetune", "adapt"),
    "convert": ("model", "pretrain", "finetune"),
    "baselines": ("runtime", "model", "env", "finetune", "baselines"),
    "finetune": ("runtime", "model", "env", "finetune"),
}
NO_RESULT = (  # settings that do not change results: the simulator's address, processes
    ("env", "server"),
    ("pretrain", "devices"),
    ("pretrain", "nodes"),
)
ON_TASKS = ("baselines", "finetune")  # the other stages work on a dataset


@contextmanager
def open_run(
    stage: str,
    what: str,
    files: Sequence[Path],
    sets: Sequence[str] | None,
    out: Path,
    inputs: dict[str, Path],
    seed: int | None = None,
) -> Iterator[tuple[Config, RunDir]]:
    """Load the settings of a stage, and open the folder of its run, which is published in `out`.

    `sets` are `key.path=value` words, applied after the files. For the others see `run_spec`.
    """
    on_task = stage in ON_TASKS
    cfg = load(files, sets, suite_and_task(what)[1] if on_task else None)
    spec = run_spec(stage, what, cfg, files, inputs, seed)
    timed = cfg.adapt if stage == "adapt" else cfg.finetune if on_task else cfg.pretrain
    kind = FollowedRun if stage == "pretrain" and started_rank() else RunDir
    with kind(spec, out, timed.checkpoint_seconds) as run:
        yield cfg, run


def run_spec(
    stage: str,
    what: str,
    cfg: Config,
    files: Sequence[Path],
    inputs: dict[str, Path],
    seed: int | None = None,
) -> RunSpec:
    """Build the identity of a run. Raises UserError for a missing or malformed input.

    Args:
        stage: a key of SECTIONS.
        what: dataset (of `adapt`: the recorded one), or suite/task.
        cfg: settings, loaded from `files`.
        inputs: files that the result depends on, by name; they are hashed.
        seed: of fine-tuning and adaptation; other stages have theirs in the settings.
    """
    names: dict[str, str | int] = dict(labels(files))
    if stage in ON_TASKS:
        names["suite"], names["task"] = suite_and_task(what)
    elif stage == "adapt":
        names["recorded"] = what
    else:
        names |= {"dataset": what, "seed": cfg.pretrain.seed}
    if stage in ("adapt", "finetune"):
        names["dataset"] = _pretraining_dataset(inputs.get("pretrained"))
    if seed is not None:
        names["seed"] = seed
    if missing := [path for path in inputs.values() if not path.is_file()]:
        raise UserError(f"no file {missing[0]}")
    hashes = {name: sha256(path) for name, path in inputs.items()}
    settings = resolved(cfg, SECTIONS[stage])
    parts: tuple[int, ...] = ()
    if "clips" in inputs:  # the manifest lists each source file and its outcome
        info: dict[str, Any] = {**read_store(inputs["clips"])}
        hashes["manifest"] = info["sha256"]["manifest"]
        parts = tuple(info.get("parts", ()))
    if stage == "pretrain" and cfg.dataset.only_parts:
        parts = tuple(sorted(cfg.dataset.only_parts))
        settings["dataset"] = {"parts": cfg.dataset.parts, "only_parts": [*parts]}
    for section, name in NO_RESULT:
        settings.get(section, {}).pop(name, None)
    dataset, scale = str(names.get("dataset", "none")), str(names.get("scale", "paper"))
    data = describe_dataset(dataset, scale)
    if stage == "adapt":
        data = f"{describe_dataset(what, scale)}; before that, {data}"
    if parts:
        data += f"; of its parts only {', '.join(map(str, parts))}"
    return RunSpec(stage, what, names, settings, hashes, data, parts)


class _Weights(TypedDict):
    dataset: str


def _pretraining_dataset(weights: Path | None) -> str:
    """The dataset of a pre-trained model as studies name it; `none` without a model."""
    if weights is None:
        return "none"
    remedy = "it must be the weights.json of a pre-trained model"
    dataset = json_file.read(weights, _Weights, remedy)["dataset"]
    return PUBLISHED + dataset if weights.is_relative_to("results/published") else dataset


def describe_dataset(name: str, scale: str) -> str:
    """Contents and terms of use of a dataset, for the model card."""
    if name == "none":
        return "no videos: learned from scratch"
    if name.startswith(PUBLISHED):
        return f"{name}: see the card of the published model"
    files = [Path(f"config/scale/{scale}.yaml"), Path(f"config/dataset/{name}.yaml")]
    if not all(path.exists() for path in files):
        return f"{name}: no settings file of this name in config/dataset"
    data = load(files).dataset
    if data.members:
        return "; ".join(describe_dataset(member.dataset, scale) for member in data.members)
    if data.source == "standin":
        content = f"{data.standin.clips} generated clips, seed {data.standin.seed}"
        return f"{name}: {content}, under the code's licence; no recorded video"
    terms = " ".join(data.by_hand.split()) or "see the terms of their owner"
    return f"{name}: recorded videos; {terms}"
