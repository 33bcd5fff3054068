"""What a study makes: its figures, and the runs that each of them compares.

study = load("laptop")   # config/study/laptop.yaml
"""

import itertools
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import (
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from cwm.infra.errors import UserError, unknown
from cwm.infra.yaml_file import read as read_yaml

CONFIG = Path("config")
SCRATCH = "none"  # the dataset of a run that is not pre-trained
PICTURES = ("prediction", "composition", "representations")  # kinds that show single models
OFFICIAL = "official-"  # before a dataset's name: not our model of its videos, but the authors'

# Names are words of paths and of commands, so they are plain ones.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")]
FigureName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
Names = Annotated[list[Name], Field(min_length=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Runs:
    """Fine-tuning runs: every combination of the names, with seeds 0, 1, ..."""

    suite: Name
    tasks: Names
    models: Names
    datasets: Names
    variants: tuple[Name, ...] = ("standard",)
    seeds: PositiveInt = 1


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Pretrained:
    """Pre-trained models: every combination of the names, with seeds 0, 1, ..."""

    datasets: Names
    models: Names
    seeds: PositiveInt = 1


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Figure:
    """A figure or table: what it is drawn from, and what its caption says."""

    kind: Literal[
        "curves",
        "domains",
        "ablations",
        "pretraining",
        "prediction",
        "prediction_errors",
        "composition",
        "representations",
        "cost",  # a table only
    ]
    title: str
    claim: str = ""  # the paper's
    notes: tuple[str, ...] = ()  # for the caption, such as that a budget is too short
    runs: tuple[Runs, ...] = ()
    pretrained: tuple[Pretrained, ...] = ()


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Study:
    """All figures of a scale, by name."""

    figures: dict[FigureName, Figure]

    def figure(self, name: str) -> Figure:
        """One figure; an unknown name is an error that lists the nearest."""
        if name not in self.figures:
            raise unknown("figure", name, self.figures)
        return self.figures[name]


class FinetuneRun(NamedTuple):
    """The wildcards of one run."""

    suite: str
    task: str
    model: str
    dataset: str
    variant: str
    seed: int


class PretrainedRun(NamedTuple):
    """The wildcards of one pre-trained model. Fine-tuning begins with seed 0, as in the paper."""

    dataset: str
    model: str
    seed: int


def finetune_runs(figure: Figure) -> list[FinetuneRun]:
    """Every fine-tuning run of a figure, once."""
    found = {
        FinetuneRun(block.suite, *names)
        for block in figure.runs
        for names in itertools.product(
            block.tasks, block.models, block.datasets, block.variants, range(block.seeds)
        )
    }
    return sorted(found)


def pretrained_runs(figure: Figure) -> list[PretrainedRun]:
    """Every pre-trained model that a figure shows, once."""
    found = {
        PretrainedRun(*names)
        for block in figure.pretrained
        for names in itertools.product(block.datasets, block.models, range(block.seeds))
    }
    return sorted(found)


def all_pretrained(study: Study) -> list[PretrainedRun]:
    """Every pre-trained model of a study, shown or fine-tuned, once."""
    figures = study.figures.values()
    return sorted({run for f in figures for run in (*pretrained_runs(f), *_pretraining(f))})


def datasets(study: Study) -> list[str]:
    """Datasets whose clips any figure needs, also as members of others."""
    found = {videos_of(run.dataset) for f in study.figures.values() for run in pretrained_runs(f)}
    found |= {run.dataset for run in all_pretrained(study) if not run.dataset.startswith(OFFICIAL)}
    others = made_of_others()
    return sorted(found.union(*(others.get(name, ()) for name in found)))


def videos_of(dataset: str) -> str:
    """The dataset whose videos a model is shown; an official one, those of the name."""
    return dataset.removeprefix(OFFICIAL)


def made_of_others() -> dict[str, list[str]]:
    """The datasets that have members, and these."""
    from cwm.config import load as settings  # with torch, which a study by itself does not need

    found = {}
    for name in _names("dataset"):
        members = settings([_known("dataset", name)]).dataset.members
        for member in members:
            _known("dataset", member.dataset)
        if members:
            found[name] = [member.dataset for member in members]
    return found


def load(scale: str) -> Study:
    """Read and check `config/study/<scale>.yaml` and every settings file that it names."""
    path = CONFIG / "study" / f"{scale}.yaml"
    _known("scale", scale)
    if not path.exists():
        raise unknown("study", scale, _names("study"))
    study = read(path)
    for name, figure in study.figures.items():
        try:
            _check(figure, scale)
        except UserError as error:
            raise UserError(f"{path}: figure {name}: {error}") from None
    return study


def read(path: Path) -> Study:
    """One study file, without looking at the settings that it names."""
    try:
        return TypeAdapter(Study).validate_python(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "unexpected_keyword_argument":
            raise UserError(f"{path}: unknown key {where}") from None
        said = reprlib.repr(first["input"])
        raise UserError(f"{path}: {where} is {said}: {first['msg']}") from None


def _check(figure: Figure, scale: str) -> None:
    """Every name has a settings file, and every combination of files makes valid settings."""
    from cwm.config import load as settings

    combinations: set[tuple[str | None, tuple[Path, ...]]] = set()
    for run in finetune_runs(figure):
        words = {"suite": run.suite, "scale": scale, "model": run.model, "variant": run.variant}
        combinations.add((run.task, tuple(_known(folder, name) for folder, name in words.items())))
    shown = pretrained_runs(figure)
    if figure.kind in PICTURES and any(run.seed for run in shown):
        raise UserError(f"kind {figure.kind} shows one seed of each pre-trained model")
    for dataset, model, seed in [*shown, *_pretraining(figure)]:
        if figure.kind == "pretraining" and dataset.startswith(OFFICIAL):
            raise UserError(f"{dataset} is the authors' work, of which there are no curves")
        if seed and dataset.startswith(OFFICIAL):
            raise UserError(f"{dataset} is the authors' work, of which there is one seed")
        words = {"scale": scale, "dataset": videos_of(dataset), "model": model}
        combinations.add((None, tuple(_known(folder, name) for folder, name in words.items())))
    for task, files in sorted(combinations, key=str):
        settings(files, task=task)


def _pretraining(figure: Figure) -> Iterator[PretrainedRun]:
    """The models that we pre-train for the fine-tuning runs of a figure."""
    for run in finetune_runs(figure):
        if run.dataset != SCRATCH and not run.dataset.startswith(OFFICIAL):
            yield PretrainedRun(run.dataset, run.model, 0)


def _known(folder: str, name: str) -> Path:
    if not (isinstance(name, str) and re.fullmatch("[a-z0-9-]+", name)):
        said = "small letters, digits and hyphens, in quotes where YAML reads a number or `true`"
        raise UserError(f"{folder} {name!r} is not a plain name: {said}")
    path = CONFIG / folder / f"{name}.yaml"
    if not path.exists():
        raise unknown(folder, name, _names(folder))
    return path


def _names(folder: str) -> list[str]:
    return [path.stem for path in (CONFIG / folder).glob("*.yaml")]
