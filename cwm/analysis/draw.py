"""A figure by its kind (config/study): what it is drawn from, and who draws it."""

from collections.abc import Sequence
from pathlib import Path

from cwm.analysis import figures, video
from cwm.analysis.cost import draw_cost
from cwm.analysis.provenance import About


def _representations(inputs: Sequence[Path], out: Path, about: About) -> None:
    from cwm.analysis.representations import draw_representations  # scikit-learn takes its time

    draw_representations(inputs, out, about)


OF_SCORES = {  # from a table and the scores that it was made of
    "curves": figures.draw_curves,
    "domains": figures.draw_domains,
    "ablations": figures.draw_ablations,
}
OF_RUNS = {  # from runs, or files in them
    "pretraining": video.draw_pretraining,
    "prediction": video.draw_prediction,
    "prediction_errors": video.draw_prediction_errors,
    "composition": video.draw_composition,
    "representations": _representations,
    "cost": draw_cost,
}


def draw(kind: str, inputs: Sequence[Path], out: Path, about: About) -> None:
    """OUT.pdf, OUT.png, and OUT.json with the caption and provenance."""
    if kind in OF_SCORES:
        OF_SCORES[kind](*inputs, out, about)
    else:
        OF_RUNS[kind](inputs, out, about)
