"""The format of `config/study/*.yaml`: figures, and the runs that each of them compares.

study = read(Path("config/study/laptop.yaml"))
"""

from collections.abc import Iterator
from itertools import chain, product, starmap
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field, PositiveInt, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cwm.infra import yaml_file
from cwm.infra.errors import UserError, explain_validation, unknown

SCRATCH = "none"  # dataset of a run without pre-training
# Prefixes of datasets whose models exist, with one seed: the authors', and this repository's.
OFFICIAL, PUBLISHED = GIVEN = ("official-", "published-")

# Names become parts of paths and words of commands.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")]
FigureName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
Names = Annotated[list[Name], Field(min_length=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Runs:
    """Fine-tuning runs: every combination of the names and of the seeds 0 to seeds - 1."""

    suite: Name
    tasks: Names
    models: Names
    datasets: Names
    variants: tuple[Name, ...] = ("standard",)
    seeds: PositiveInt = 1


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Pretrained:
    """Pre-trained models: every combination of the names and of the seeds 0 to seeds - 1."""

    datasets: Names
    models: Names
    seeds: PositiveInt = 1


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Adapted:
    """Models adapted to recorded episodes: every combination of the names and of the seeds."""

    recorded: Name
    datasets: Names  # of the pre-trained models that they start from; none: from scratch
    models: Names
    seeds: PositiveInt = 1


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Arm:
    """One side of a comparison: the runs of a method with seeds 0 to seeds - 1."""

    model: Name
    dataset: Name
    variant: Name = "standard"
    seeds: PositiveInt = 5


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Comparison:
    """A question about two arms on one task; "yes" means that the first has the larger mean."""

    question: str
    suite: Name
    task: Name
    first: Arm
    second: Arm
    # area: mean of all evaluations of a run (area under the curve); final: of its last two
    measure: Literal["area", "final"] = "area"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Figure:
    """A figure or table: the runs it shows, and the text of its caption."""

    kind: Literal[
        "curves",
        "domains",
        "ablations",
        "comparisons",
        "pretraining",
        "prediction",
        "prediction_errors",
        "composition",
        "representations",
        "invariance",
        "adaptation",
        "cost",  # a table only
    ]
    title: str
    claim: str = ""  # what the paper says
    notes: tuple[str, ...] = ()  # sentences of the caption, such as on short budgets
    too_short: bool = False  # runs too short to show learning: the report shows it last
    runs: tuple[Runs, ...] = ()
    pretrained: tuple[Pretrained, ...] = ()
    adapted: tuple[Adapted, ...] = ()
    comparisons: tuple[Comparison, ...] = ()  # of kind `comparisons`: one family of tests


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Study:
    """The figures of a study, by name."""

    figures: dict[FigureName, Figure]
    # Fine-tuning seed s starts from the model of pre-training seed s modulo this number. The paper
    # has one model of each kind; with as many as seeds, intervals include the pre-training.
    pretrained_seeds: PositiveInt = 1

    def initial_model(self, dataset: str, model: str, seed: int) -> "PretrainedRun | None":
        """The model that a fine-tuning run starts from; None from scratch."""
        if dataset == SCRATCH:
            return None
        given = dataset.startswith(GIVEN)  # one seed
        return PretrainedRun(dataset, model, 0 if given else seed % self.pretrained_seeds)

    def figure(self, name: str) -> Figure:
        """Get a figure; UserError with similar names if it is unknown."""
        if name not in self.figures:
            raise unknown("figure", name, self.figures)
        return self.figures[name]


class FinetuneRun(NamedTuple):
    """The wildcards of a fine-tuning run."""

    suite: str
    task: str
    model: str
    dataset: str
    variant: str
    seed: int


class PretrainedRun(NamedTuple):
    """The wildcards of a pre-trained model."""

    dataset: str
    model: str
    seed: int


class AdaptedRun(NamedTuple):
    """The wildcards of an adapted model."""

    recorded: str
    dataset: str
    model: str
    seed: int


def finetune_runs(figure: Figure) -> list[FinetuneRun]:
    """The fine-tuning runs of a figure, without repetition."""
    found: set[FinetuneRun] = set()
    for x in figure.runs:
        names = product([x.suite], x.tasks, x.models, x.datasets, x.variants, range(x.seeds))
        found.update(starmap(FinetuneRun, names))
    for c in figure.comparisons:
        for arm in (c.first, c.second):
            method = c.suite, c.task, arm.model, arm.dataset, arm.variant
            found.update(FinetuneRun(*method, seed) for seed in range(arm.seeds))
    return sorted(found)


def published_weights(model: PretrainedRun) -> str:
    """The file of a model of a dataset `published-NAME`."""
    folder = f"{videos_of(model.dataset)}/{model.model}/{model.seed}"
    return f"results/published/evidence/pretrain/{folder}/weights.json"


def pretrained_runs(figure: Figure) -> list[PretrainedRun]:
    """The pre-trained models that a figure shows, without repetition."""
    names = (product(x.datasets, x.models, range(x.seeds)) for x in figure.pretrained)
    return sorted(set(starmap(PretrainedRun, chain.from_iterable(names))))


def adapted_runs(figure: Figure) -> list[AdaptedRun]:
    """The adapted models that a figure shows, without repetition."""
    names = (product([x.recorded], x.datasets, x.models, range(x.seeds)) for x in figure.adapted)
    return sorted(set(starmap(AdaptedRun, chain.from_iterable(names))))


def all_pretrained(study: Study) -> list[PretrainedRun]:
    """The pre-trained models that a study shows or fine-tunes, without repetition."""
    figures = study.figures.values()
    return sorted({m for f in figures for m in (*pretrained_runs(f), *initial_models(study, f))})


def initial_models(study: Study, figure: Figure) -> Iterator[PretrainedRun]:
    """The models to pre-train for the fine-tuning and adaptation runs of a figure."""
    runs: list[FinetuneRun | AdaptedRun] = [*finetune_runs(figure), *adapted_runs(figure)]
    for run in runs:
        model = study.initial_model(run.dataset, run.model, run.seed)
        if model is not None and not model.dataset.startswith(GIVEN):
            yield model


def videos_of(dataset: str) -> str:
    """The dataset whose videos a model predicts; for `official-NAME` and `published-NAME`, NAME."""
    return dataset.removeprefix(OFFICIAL).removeprefix(PUBLISHED)


def read(path: Path) -> Study:
    """Read a study file; does not check that the names in it exist."""
    try:
        return TypeAdapter(Study).validate_python(yaml_file.read(path))
    except ValidationError as error:
        raise UserError(explain_validation(str(path), error)) from None
