"""Figures of a study from the runs that are there: published ones, or all but those that failed."""

import logging
from pathlib import Path

from cwm.analysis.figures import draw_ablations, draw_curves, draw_domains
from cwm.analysis.provenance import About
from cwm.analysis.report import write_report
from cwm.analysis.scores import collect
from cwm.analysis.tables import make_table
from cwm.errors import UserError
from cwm.source import commit
from cwm.study import Figure, finetune_runs, read

DRAW = {"curves": draw_curves, "domains": draw_domains, "ablations": draw_ablations}

log = logging.getLogger(__name__)


def redraw(results: Path, study: Path, out: Path) -> None:
    """Draw what `study` shows of the scores in `results`, and a page of it, to the folder `out`.

    A figure says in its caption which of its runs are missing; one without any run is left out.
    """
    command = f"cwm redraw {results} --study {study} --out {out}"
    drawn: dict[str, list[Path]] = {}
    for name, figure in read(study).figures.items():
        if figure.kind not in DRAW:
            log.info("%s is not drawn: it shows no scores", name)
            continue
        runs, missing = _runs(results, figure)
        if not runs:
            log.info("%s is not drawn: none of its %d runs are there", name, len(missing))
            continue
        levels = {results / "baselines" / run.suite / run.task for run in finetune_runs(figure)}
        scores, table = out / "scores" / f"{name}.csv", out / "tables" / name
        collect(runs, sorted(path for path in levels if (path / "scores.csv").exists()), scores)
        make_table(figure.kind, scores, table)
        notes = (*figure.notes, f"Missing runs: {', '.join(missing)}.") if missing else figure.notes
        about = About(figure.title, command, commit(), figure.claim, notes, str(study), (scores,))
        DRAW[figure.kind](table.with_suffix(".csv"), scores, out / "figures" / name, about)
        drawn[name] = runs
    if not drawn:
        raise UserError(f"{results} has no runs of {study}")
    write_report(
        results.name,
        [out / "figures" / f"{name}.json" for name in drawn],
        [out / "tables" / f"{name}.md" for name in drawn],
        stores=[],
        episodes=[],
        out=out / "report.html",
        runs=list(dict.fromkeys(run for runs in drawn.values() for run in runs)),
    )


def _runs(results: Path, figure: Figure) -> tuple[list[Path], list[str]]:
    """The figure's runs that have scores, and the names of those that have none."""
    names = ["/".join(map(str, run)) for run in finetune_runs(figure)]
    there = [name for name in names if (results / "finetune" / name / "scores.csv").exists()]
    missing = [name for name in names if name not in there]
    return [results / "finetune" / name for name in there], missing
