"""Draw a figure by its kind in config/study."""

from collections.abc import Sequence
from pathlib import Path

from cwm.analysis import figures, video_figures
from cwm.analysis.provenance import FigureMeta
from cwm.infra.errors import UserError, unknown


def _representations(inputs: Sequence[Path], out: Path, meta: FigureMeta) -> None:
    from cwm.analysis.representations import draw_representations  # scikit-learn imports slowly

    draw_representations(inputs, out, meta)


FROM_SCORES = {  # inputs: a table, and the scores it was made from
    "curves": figures.draw_curves,
    "domains": figures.draw_domains,
    "ablations": figures.draw_ablations,
}
FROM_RUNS = {  # inputs: run folders, or files in them
    "pretraining": video_figures.draw_pretraining,
    "prediction": video_figures.draw_prediction,
    "prediction_errors": video_figures.draw_prediction_errors,
    "composition": video_figures.draw_composition,
    "representations": _representations,
}


def draw(kind: str, inputs: Sequence[Path], out: Path, meta: FigureMeta) -> None:
    """Write OUT.pdf, OUT.png and OUT.json.

    UserError for a kind without a figure, as `cost`, and for a wrong number of inputs.
    """
    if kind in FROM_SCORES:
        if len(inputs) != 2:
            raise UserError(f"a figure of kind {kind} needs its table and scores: two files")
        table, scores = inputs
        FROM_SCORES[kind](table, scores, out, meta)
    elif kind in FROM_RUNS:
        FROM_RUNS[kind](inputs, out, meta)
    else:
        raise unknown("kind of figure", kind, [*FROM_SCORES, *FROM_RUNS])
