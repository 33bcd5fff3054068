"""What MLflow and TensorBoard show of a run or a figure, read from its files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.run_json import labels, read_run

LAST_FILE = {  # of a stage: the file that is published last, so a run with it is finished
    "pretrain": "weights.json",
    "convert": "weights.json",
    "predict": "errors.csv",
    "represent": "features.npz",
    "invariance": "invariance.csv",
    "adapt": "weights.json",
    "baselines": "scores.csv",
    "finetune": "weights.json",
}
FIGURES = "figures"
ARTIFACTS = ("run.json", "config.yaml", "weights.json", "*.csv", "episode.mp4", "*.png", "*.pdf")

Lines = Sequence[tuple[dict[str, float], int]]  # metrics with their step, unix milliseconds


@dataclass(frozen=True)
class Record:
    """Everything that is shown of a run or figure. `key` and `name` identify it."""

    stage: str
    key: str
    name: str
    status: str  # RUNNING, FINISHED, FAILED or KILLED
    tags: Mapping[str, str]
    artifacts: Sequence[Path]
    params: Mapping[str, str] = field(default_factory=dict)
    lines: Lines = ()


class _Figure(TypedDict):
    scale: str
    caption: str


class _Timing(TypedDict):
    time: FiniteFloat


def run_record(folder: Path, status: str | None = None) -> Record:
    """Read a run folder. Without `status` it is FINISHED if its last file exists, else RUNNING."""
    from cwm.infra import yaml_file

    run = read_run(folder, "stage", "key")
    names = ({"scale": run["scale"]} if "scale" in run else {}) | labels(run)
    tags = names | {"stage": run["stage"], "cwm.path": folder.as_posix()}
    tags["mlflow.source.git.commit"] = run.get("commit") or "unknown"
    tags |= {f"input.{name}": checksum for name, checksum in run.get("inputs", {}).items()}
    config = folder / "config.yaml"
    return Record(
        stage=run["stage"],
        key=run["key"],
        name="/".join(names.values()),
        status=status or ("FINISHED" if is_finished(folder) else "RUNNING"),
        tags=tags,
        artifacts=[file for name in ARTIFACTS for file in sorted(folder.glob(name))],
        params=dict(_flatten(yaml_file.read(config))) if config.exists() else {},
        lines=_read_lines(folder),
    )


def figure_record(file: Path) -> Record:
    """Read FIGURE.json; FIGURE.png and FIGURE.pdf beside it are sent with it."""
    figure = json_file.read(file, _Figure)
    name = f"{figure['scale']}/{file.stem}"
    tags = {"scale": figure["scale"], "mlflow.note.content": figure["caption"]}
    files = [x for x in map(file.with_suffix, (".pdf", ".png", ".json")) if x.exists()]
    return Record(FIGURES, name, name, "FINISHED", tags, files)


def is_finished(folder: Path) -> bool:
    """Whether a run folder has the file that its stage publishes last."""
    stage = read_run(folder, "stage")["stage"]
    return (folder / LAST_FILE.get(stage, "run.json")).exists()


def _flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield `{"world": {"size": 3}}` as `world.size`, `3`."""
    if isinstance(config, dict) and (config or not prefix):
        for key, value in config.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return
    yield prefix, str(config)


def _read_lines(folder: Path) -> Lines:
    """Read the complete lines of metrics.jsonl, each with its time from timing.jsonl."""
    files = (folder / "metrics.jsonl", folder / "timing.jsonl")
    if not all(file.exists() for file in files):
        return ()
    # The last line may be incomplete, and one file may be a line ahead of the other.
    texts = (file.read_text(errors="replace").split("\n")[:-1] for file in files)
    return [
        (
            json_file.parse(metrics, dict[str, int | float], f"a line of {files[0]}"),
            int(json_file.parse(timing, _Timing, f"a line of {files[1]}")["time"] * 1000),
        )
        for metrics, timing in zip(*texts, strict=False)
    ]
