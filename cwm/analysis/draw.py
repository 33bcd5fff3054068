"""Write the table and draw the figure of a kind in config/study."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from cwm.analysis import figures, video_figures
from cwm.analysis.adaptation_figure import draw_adaptation
from cwm.analysis.comparisons import draw_comparisons, make_comparison_table
from cwm.analysis.invariance_figure import draw_invariance
from cwm.analysis.provenance import Drawing, FigureMeta, save
from cwm.analysis.style import RC
from cwm.analysis.tables import make_table
from cwm.infra.errors import UserError, unknown
from cwm.study_file import Figure


def _representations(runs: Sequence[Path]) -> Drawing:
    from cwm.analysis.representations import draw_representations  # scikit-learn imports slowly

    return draw_representations(runs)


FROM_SCORES = {  # inputs: a table, and the scores it was made from
    "curves": figures.draw_curves,
    "domains": figures.draw_domains,
    "ablations": figures.draw_ablations,
    "comparisons": draw_comparisons,
}
FROM_RUNS = {  # inputs: run folders, or files in them
    "pretraining": video_figures.draw_pretraining,
    "prediction": video_figures.draw_prediction,
    "prediction_errors": video_figures.draw_prediction_errors,
    "composition": video_figures.draw_composition,
    "representations": _representations,
    "invariance": draw_invariance,
    "adaptation": draw_adaptation,
}


def tabulate(figure: Figure, scores: Path, out: Path) -> None:
    """Write the table of a figure of scores; files and errors as of `make_table`."""
    if figure.kind == "comparisons":
        make_comparison_table(figure.comparisons, scores, out)
    else:
        make_table(figure.kind, scores, out)


def draw(kind: str, inputs: Sequence[Path], out: Path, meta: FigureMeta) -> None:
    """Write OUT.pdf, OUT.png and OUT.json.

    UserError for a kind without a figure, as `cost`, for a wrong number of inputs, and for a
    missing or broken input.
    """
    if kind not in FROM_SCORES | FROM_RUNS:
        raise unknown("kind of figure", kind, [*FROM_SCORES, *FROM_RUNS])
    if kind in FROM_SCORES and len(inputs) != 2:
        raise UserError(f"a figure of kind {kind} needs its table and scores: two files")
    with mpl.rc_context(RC):
        drawing = FROM_SCORES[kind](*inputs) if kind in FROM_SCORES else FROM_RUNS[kind](inputs)
        save(drawing, out, meta)
