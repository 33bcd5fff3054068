"""What identifies a run, from what its command was given."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from typing_extensions import TypedDict

from cwm.config import Config, labels, load, resolved
from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.files import sha256
from cwm.infra.run_dir import RunSpec


def run_spec(
    stage: str,
    what: str,
    cfg: Config,
    sections: Sequence[str],
    files: Sequence[Path],
    inputs: dict[str, Path],
    seed: int | None = None,
) -> RunSpec:
    """What identifies a run, from what its command was given.

    `sections` of the settings are those that the stage reads. A pre-trained model brings the name
    of its dataset along.
    """
    names: dict[str, str | int] = dict(labels(files))
    if stage in ("pretrain", "predict", "represent", "convert"):
        names |= {"dataset": what, "seed": cfg.pretrain.seed}
    else:
        names["suite"], _, names["task"] = what.partition("/")
    if stage == "finetune":
        names["dataset"] = _dataset(inputs.get("pretrained"))
    if seed is not None:
        names["seed"] = seed
    hashes = {name: sha256(_existing(path)) for name, path in inputs.items()}
    if "clips" in inputs:  # also what every source of the clips is, and became
        store = json_file.read(inputs["clips"], _Store, "`cwm clips` writes it")
        hashes["manifest"] = store["sha256"]["manifest"]
    settings = resolved(cfg, sections)
    settings.get("env", {}).pop("server", None)  # where it is simulated makes no other run of it
    dataset, scale = str(names.get("dataset", "none")), str(names.get("scale", "paper"))
    return RunSpec(stage, what, names, settings, hashes, describe_dataset(dataset, scale))


class _Checksums(TypedDict):
    manifest: str


class _Store(TypedDict):
    sha256: _Checksums


class _Weights(TypedDict):
    dataset: str


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"no file {path}")
    return path


def _dataset(weights: Path | None) -> str:
    if weights is None:
        return "none"
    return json_file.read(weights, _Weights, "it must be the weights.json of a pre-trained model")[
        "dataset"
    ]


def describe_dataset(name: str, scale: str) -> str:
    """What a dataset is by its settings, and its terms of use: for the model card."""
    return "; ".join(_describe(name, scale))


def _describe(name: str, scale: str) -> Iterator[str]:
    if name == "none":
        yield "no videos: learned from scratch"
        return
    files = [Path(f"config/scale/{scale}.yaml"), Path(f"config/dataset/{name}.yaml")]
    if not all(path.exists() for path in files):
        yield f"{name}, of which this folder has no settings"
        return
    data = load(files).dataset
    for member in data.members:
        yield from _describe(member.dataset, scale)
    if data.members:
        return
    if data.source == "standin":
        made = f"{data.standin.clips} generated clips, seed {data.standin.seed}"
        yield f"{name}: {made}, under the code's licence; no film by anyone"
    else:
        terms = " ".join(data.by_hand.split()) or "whatever terms its owner set"
        yield f"{name}, videos of others: {terms}"
