"""Runs of pre-trained models, as figures name them."""

from collections.abc import Iterable
from pathlib import Path

from cwm.analysis.provenance import Shown
from cwm.analysis.runs import folder_of, read_identity
from cwm.analysis.style import Look, Method, in_order, looks
from cwm.errors import UserError


def folders(paths: Iterable[Path]) -> dict[Method, Path]:
    """Run folders, or files in them, by model and dataset in the legend's order."""
    found: dict[Method, Path] = {}
    for folder in map(folder_of, paths):
        run = read_identity(folder, "dataset", "model")
        method = Method("agent", run["model"], run["dataset"], "standard")
        if method in found:
            raise UserError(f"{folder} and {found[method]} are both {method.label}")
        found[method] = folder
    if not found:
        raise UserError("no runs to draw")
    return {method: found[method] for method in in_order(found)}


def looks_of(methods: Iterable[Method]) -> dict[str, Look]:
    """The look of each model, whatever it has watched."""
    drawn = looks(method._replace(dataset="something") for method in methods)
    return {method.model: look for method, look in drawn.items()}


def shown(runs: Iterable[Path], notes: Iterable[str] = ()) -> Shown:
    """What to say of a figure of these folders; UserError if they are of several scales."""
    identities = [read_identity(folder, "stage", "scale") for folder in runs]
    if len(scales := {run["scale"] for run in identities}) > 1:
        raise UserError(f"a figure shows one scale, but these runs are of {', '.join(scales)}")
    names = tuple(f"{run['stage']}/{run['dataset']}/{run['model']}" for run in identities)
    return Shown(scales.pop(), names, dict.fromkeys(names, 1), tuple(notes))
