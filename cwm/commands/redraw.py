"""Figures of a study from the runs that are there: published ones, or all but those that failed."""

import logging
from pathlib import Path

from cwm.analysis.draw import OF_SCORES, draw
from cwm.analysis.provenance import About
from cwm.analysis.report import write_report
from cwm.analysis.scores import collect
from cwm.analysis.tables import make_table
from cwm.infra.errors import UserError
from cwm.infra.source import git_commit
from cwm.study import Figure, finetune_runs, pretrained_runs, read

FILES = {  # that a kind of figure needs of each of its runs; other kinds show frames or times
    **dict.fromkeys(OF_SCORES, "finetune/{}/scores.csv"),
    "pretraining": "pretrain/{}/metrics.jsonl",
    "prediction_errors": "predict/{}/errors.csv",
    "representations": "represent/{}/features.npz",
}

log = logging.getLogger(__name__)


def redraw(results: Path, study: Path, out: Path) -> None:
    """Draw what `study` shows of `results`, and a page of it, to the folder `out`.

    A figure says in its caption which of its runs are missing; one without any run is left out.
    """
    command = f"cwm redraw {results} --study {study} --out {out}"
    drawn: dict[str, list[Path]] = {}
    for name, figure in read(study).figures.items():
        if figure.kind not in FILES:
            log.info("%s is not drawn: it shows frames or times", name)
            continue
        files, missing = _files(results, figure)
        if not files:
            log.info("%s is not drawn: none of its %d runs are there", name, len(missing))
            continue
        inputs = files
        if figure.kind in OF_SCORES:
            levels = {results / "baselines" / run.suite / run.task for run in finetune_runs(figure)}
            scores, table = out / "scores" / f"{name}.csv", out / "tables" / name
            collect(files, sorted(x for x in levels if (x / "scores.csv").exists()), scores)
            make_table(figure.kind, scores, table)
            inputs = [table.with_suffix(".csv"), scores]
        notes = (*figure.notes, f"Missing runs: {', '.join(missing)}.") if missing else figure.notes
        whence = (str(study), tuple(inputs))
        about = About(figure.title, command, git_commit(), figure.claim, notes, *whence)
        draw(figure.kind, inputs, out / "figures" / name, about)
        drawn[name] = files
    if not drawn:
        raise UserError(f"{results} has no runs of {study}")
    write_report(
        results.name,
        [out / "figures" / f"{name}.json" for name in drawn],
        sorted((out / "tables").glob("*.md")),
        stores=[],
        episodes=[],
        out=out / "report.html",
        runs=list(dict.fromkeys(file for files in drawn.values() for file in files)),
    )


def _files(results: Path, figure: Figure) -> tuple[list[Path], list[str]]:
    """The file that the figure needs of each run, and the names of the runs that lack it."""
    runs = finetune_runs(figure) if figure.kind in OF_SCORES else pretrained_runs(figure)
    names = ["/".join(map(str, run)) for run in runs]
    files = {name: results / FILES[figure.kind].format(name) for name in names}
    missing = [name for name, file in files.items() if not file.exists()]
    return [file for name, file in files.items() if name not in missing], missing
