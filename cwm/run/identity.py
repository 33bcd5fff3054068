"""What identifies a run, from what its command was given."""

from collections.abc import Sequence
from pathlib import Path

from typing_extensions import TypedDict

from cwm import json_file
from cwm.checkpoint import file_sha256
from cwm.config import Config, labels, resolved
from cwm.errors import UserError
from cwm.run.folder import Task


def task(
    stage: str,
    what: str,
    cfg: Config,
    sections: Sequence[str],
    files: Sequence[Path],
    inputs: dict[str, Path],
    seed: int | None = None,
) -> Task:
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
    hashes = {name: file_sha256(_existing(path)) for name, path in inputs.items()}
    if "clips" in inputs:  # also what every source of the clips is, and became
        store = json_file.read(inputs["clips"], _Store, "`cwm clips` writes it")
        hashes["manifest"] = store["sha256"]["manifest"]
    settings = resolved(cfg, sections)
    settings.get("env", {}).pop("server", None)  # where it is simulated makes no other run of it
    return Task(stage, what, names, settings, hashes)


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
