"""Draw a study's figures and report from existing runs, such as published ones."""

import logging
from pathlib import Path

from cwm.analysis.draw import FROM_SCORES, draw, tabulate
from cwm.analysis.provenance import FigureMeta
from cwm.analysis.report import write_report
from cwm.analysis.runs import folder_of
from cwm.analysis.scores import collect
from cwm.infra.errors import UserError
from cwm.infra.run_json import read_run
from cwm.infra.source import git_commit
from cwm.study_file import Figure, adapted_runs, finetune_runs, pretrained_runs, read

INPUTS = {  # file that each kind of figure needs of each run; other kinds need frames or times
    **dict.fromkeys(FROM_SCORES, "finetune/{}/scores.csv"),
    "pretraining": "pretrain/{}/metrics.jsonl",
    "prediction_errors": "predict/{}/errors.csv",
    "representations": "represent/{}/features.npz",
    "invariance": "invariance/{}/invariance.csv",
    "adaptation": "adapt/{}/action_errors.csv",
}

log = logging.getLogger(__name__)


def redraw(results: Path, study: Path, out: Path) -> None:
    """Draw the figures of `study` from the runs in `results`, with a report, to the folder `out`.

    Captions list missing runs. A figure without any run is skipped. UserError if all are.
    """
    command = f"cwm redraw {results} --study {study} --out {out}"
    drawn: dict[str, list[Path]] = {}
    for name, figure in read(study).figures.items():
        if figure.kind not in INPUTS:
            log.info("%s skipped: needs frames or times, which redraw does not read", name)
            continue
        files, missing = existing(results, figure)
        if not files:
            log.info("%s skipped: none of its %d runs exist", name, len(missing))
            continue
        drawn[name] = files
        if figure.kind in FROM_SCORES:
            files = _tabulate(results, name, figure, files, out)
        meta = FigureMeta(
            figure.title,
            command,
            git_commit(),
            figure.claim,
            figure.notes,
            figure.too_short,
            missing=tuple(missing),
            config=str(study),
            data=tuple(files),
        )
        draw(figure.kind, files, out / "figures" / name, meta)
    if not drawn:
        raise UserError(f"{results} has no runs of {study}")
    runs = list(dict.fromkeys(file for files in drawn.values() for file in files))
    write_report(
        read_run(folder_of(runs[0]), "scale")["scale"],
        [out / "figures" / f"{name}.json" for name in drawn],
        sorted((out / "tables").glob("*.md")),
        stores=[],
        episodes=[],
        out=out / "report.html",
        runs=runs,
    )


def existing(results: Path, figure: Figure) -> tuple[list[Path], list[str]]:
    """The existing input files of a figure, and the names of the missing runs."""
    runs = [*finetune_runs(figure)] if figure.kind in FROM_SCORES else [*pretrained_runs(figure)]
    names = ["/".join(map(str, run)) for run in [*runs, *adapted_runs(figure)]]
    files = {name: results / INPUTS[figure.kind].format(name) for name in names}
    missing = [name for name, file in files.items() if not file.exists()]
    return [file for file in files.values() if file.exists()], missing


def baselines(results: Path, figure: Figure) -> list[Path]:
    """The existing scores of policies that do not learn, on the tasks of a figure."""
    tasks = {results / "baselines" / run.suite / run.task for run in finetune_runs(figure)}
    return [file for task in sorted(tasks) if (file := task / "scores.csv").exists()]


def _tabulate(results: Path, name: str, figure: Figure, runs: list[Path], out: Path) -> list[Path]:
    """Write the figure's scores and table; returns the table's CSV and the scores."""
    scores, table = out / "scores" / f"{name}.csv", out / "tables" / name
    collect(runs, [file.parent for file in baselines(results, figure)], scores)
    tabulate(figure, scores, table)
    return [table.with_suffix(".csv"), scores]
