"""run.json: the identity and origin of a run; every reader of run.json uses this module."""

from pathlib import Path

from pydantic import ConfigDict, NonNegativeInt, with_config
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.errors import UserError

LABELS = ("suite", "task", "model", "dataset", "variant", "seed")


@with_config(ConfigDict(extra="allow"))
class RunJson(TypedDict, total=False):
    """Content of run.json; the stage decides which labels a run has."""

    stage: str
    scale: str
    suite: str
    task: str
    recorded: str
    model: str
    dataset: str
    variant: str
    seed: NonNegativeInt
    key: str
    inputs: dict[str, str]  # name of an input -> sha256
    parts: list[NonNegativeInt]  # decoded parts of the dataset that it was trained on; none: all
    command: str
    commit: str | None
    versions: dict[str, str]


def read_run(folder: Path, *required: str) -> RunJson:
    """Read FOLDER/run.json; UserError if it is damaged or lacks one of the `required` keys."""
    run = json_file.read(folder / "run.json", RunJson)
    if missing := [name for name in required if run.get(name) is None]:
        raise UserError(f"{folder / 'run.json'} lacks {', '.join(missing)}")
    return run


def labels(run: RunJson) -> dict[str, str]:
    """Return the labels that a run has, as text: the recorded episodes, then those of LABELS."""
    values = {"recorded": run.get("recorded")} | {name: run.get(name) for name in LABELS}
    return {name: str(value) for name, value in values.items() if value not in (None, "")}
