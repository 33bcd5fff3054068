"""Runs of pre-trained models, as figures name them."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cwm.analysis.provenance import Shown
from cwm.analysis.runs import folder_of, read_identity
from cwm.analysis.style import Look, Method, in_order, looks
from cwm.infra.errors import UserError


def by_seed(paths: Iterable[Path]) -> dict[Method, dict[int, Path]]:
    """Run folders, or files in them, by model and dataset in the legend's order, and by seed."""
    found: dict[Method, dict[int, Path]] = {}
    for folder in map(folder_of, paths):
        run = read_identity(folder, "dataset", "model", "seed")
        method = Method("agent", run["model"], run["dataset"], "standard")
        other = found.setdefault(method, {}).setdefault(run["seed"], folder)
        if other != folder:
            raise UserError(f"{folder} and {other} are both {method.label}, seed {run['seed']}")
    if not found:
        raise UserError("no runs to draw")
    return {method: dict(sorted(found[method].items())) for method in in_order(found)}


def folders(paths: Iterable[Path]) -> dict[Method, Path]:
    """The same for a figure that shows one seed of each."""
    found = by_seed(paths)
    for method, seeds in found.items():
        if len(seeds) > 1:
            raise UserError(f"{len(seeds)} seeds of {method.label}, of which one can be shown")
    return {method: next(iter(seeds.values())) for method, seeds in found.items()}


def looks_of(methods: Iterable[Method]) -> dict[str, Look]:
    """The look of each model, whatever it has watched."""
    drawn = looks(method._replace(dataset="something") for method in methods)
    return {method.model: look for method, look in drawn.items()}


def shown(runs: Iterable[Path], notes: Iterable[str] = ()) -> Shown:
    """What to say of a figure of these folders; UserError if they are of several scales."""
    identities = [read_identity(folder, "stage", "scale") for folder in runs]
    if len(scales := {run["scale"] for run in identities}) > 1:
        raise UserError(f"a figure shows one scale, but these runs are of {', '.join(scales)}")
    methods = [f"{run['stage']}/{run['dataset']}/{run['model']}" for run in identities]
    names = tuple(f"{m}/{run['seed']}" for m, run in zip(methods, identities, strict=True))
    return Shown(scales.pop(), names, dict(Counter(methods)), tuple(notes))
