"""Studies checked against the settings files that they name.

study = load("laptop")   # config/study/laptop.yaml
"""

import re
from pathlib import Path

from cwm.config import load as load_settings
from cwm.infra.errors import UserError, unknown
from cwm.study_file import (
    GIVEN,
    OFFICIAL,
    PUBLISHED,
    Figure,
    Study,
    adapted_runs,
    all_pretrained,
    finetune_runs,
    initial_models,
    pretrained_runs,
    published_weights,
    read,
    videos_of,
)

CONFIG = Path("config")
SHADOWS = "shadows"  # dataset of the shadow pairs of a figure of kind `invariance`
PICTURES = ("prediction", "composition", "representations")  # kinds that show single models


def load(scale: str) -> Study:
    """Read `config/study/<scale>.yaml` and check every settings file that it names.

    Raises UserError for an unknown name and for settings that are invalid in combination.
    """
    path = CONFIG / "study" / f"{scale}.yaml"
    _file("scale", scale)
    if not path.exists():
        raise unknown("study", scale, _names("study"))
    study = read(path)
    for name, figure in study.figures.items():
        try:
            _check(study, figure, scale)
        except UserError as error:
            raise UserError(f"{path}: figure {name}: {error}") from None
    return study


def datasets(study: Study) -> list[str]:
    """Datasets whose clips the figures need, including members of mixtures."""
    found = {videos_of(run.dataset) for f in study.figures.values() for run in pretrained_runs(f)}
    found |= {run.dataset for run in all_pretrained(study) if not run.dataset.startswith(GIVEN)}
    found |= {SHADOWS for figure in study.figures.values() if figure.kind == "invariance"}
    found |= {run.recorded for f in study.figures.values() for run in adapted_runs(f)}
    members = mixtures()
    return sorted(found.union(*(members.get(name, ()) for name in found)))


def mixtures() -> dict[str, list[str]]:
    """Mixtures in config/dataset, with their member datasets."""
    found = {}
    for name in _names("dataset"):
        members = load_settings([_file("dataset", name)]).dataset.members
        for member in members:
            _file("dataset", member.dataset)
        if members:
            found[name] = [member.dataset for member in members]
    return found


def recorded() -> list[str]:
    """Datasets in config/dataset that are recorded episodes."""
    names = _names("dataset")
    return sorted(x for x in names if load_settings([_file("dataset", x)]).dataset.recorded)


def _check(study: Study, figure: Figure, scale: str) -> None:
    """Load the settings of every run of a figure."""
    combinations: set[tuple[str | None, tuple[Path, ...]]] = set()
    for run in finetune_runs(figure):
        start = study.initial_model(run.dataset, run.model, run.seed)
        if start and start.dataset.startswith(PUBLISHED):
            _check_published(Path(published_weights(start)))
        names = {"suite": run.suite, "scale": scale, "model": run.model, "variant": run.variant}
        combinations.add((run.task, tuple(_file(folder, name) for folder, name in names.items())))
    if (figure.kind == "comparisons") != bool(figure.comparisons):
        raise UserError("`comparisons` belong to the kind comparisons, and that kind needs some")
    if (figure.kind == "adaptation") != bool(figure.adapted):
        raise UserError("`adapted` belongs to the kind adaptation, and that kind needs some")
    for adapted in adapted_runs(figure):
        names = {"scale": scale, "dataset": adapted.recorded, "model": adapted.model}
        files = tuple(_file(folder, name) for folder, name in names.items())
        if not load_settings(files).dataset.recorded:
            raise UserError(f"dataset {adapted.recorded} has no actions; set dataset.recorded")
    shown = pretrained_runs(figure)
    if figure.kind in PICTURES and any(run.seed for run in shown):
        raise UserError(f"kind {figure.kind} shows one seed of each pre-trained model")
    if any(run.dataset.startswith(PUBLISHED) for run in shown):
        raise UserError("a published model may have been trained on the clips shown")
    for dataset, model, seed in [*shown, *initial_models(study, figure)]:
        if figure.kind == "pretraining" and dataset.startswith(OFFICIAL):
            raise UserError(f"{dataset} was pre-trained by the authors: it has no training curves")
        if seed and dataset.startswith(OFFICIAL):
            raise UserError(f"{dataset} was pre-trained by the authors: it has one seed")
        names = {"scale": scale, "dataset": videos_of(dataset), "model": model}
        combinations.add((None, tuple(_file(folder, name) for folder, name in names.items())))
    for task, files in sorted(combinations, key=str):
        load_settings(files, task=task)


def _check_published(weights: Path) -> None:
    """UserError if a published model is missing."""
    if not weights.exists():
        raise UserError(f"{weights} is missing; it is part of the repository")


def _file(folder: str, name: str) -> Path:
    """The settings file `config/<folder>/<name>.yaml`; UserError if there is none."""
    if not (isinstance(name, str) and re.fullmatch("[a-z0-9-]+", name)):
        raise UserError(
            f"{folder} {name!r} is not a plain name: use small letters, digits and hyphens, in"
            " quotes where YAML reads a number or `true`"
        )
    path = CONFIG / folder / f"{name}.yaml"
    if not path.exists():
        raise unknown(folder, name, _names(folder))
    return path


def _names(folder: str) -> list[str]:
    return [path.stem for path in (CONFIG / folder).glob("*.yaml")]
