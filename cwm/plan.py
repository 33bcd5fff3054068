"""Estimate the cost of a figure or a study before it runs: hours, disk and downloads.

Finished jobs in `results/<scale>` give the seconds per unit (clip, update, step, ...) of a kind of
job. For other kinds, costs.csv has seconds that `bench/costs.py` measured. Kinds that were never
measured are listed.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cwm import study
from cwm.analysis.cost import measured
from cwm.analysis.runs import read_csv
from cwm.config import Config, load
from cwm.infra import yaml_file
from cwm.infra.errors import UserError
from cwm.videos.datasets import folder_of

CONSTANTS = 9  # constant actions that `cwm baselines` tries in two dimensions, fewer in one
PREDICTED = ("prediction", "prediction_errors", "composition", "cost")  # kinds of figures
COLUMNS = ["stage", "of", "scale", "device"]  # of costs.csv
PRICES = ["seconds", "bytes"]  # of a unit; of a job, but per clip in the stages below
PER_CLIP = ("videos", "clips")
ON_GPU = ("pretrain", "predict", "represent", "invariance", "adapt", "baselines", "finetune")


class Job(NamedTuple):
    """A job of the workflow. Jobs of the same stage and `of` take equally long per unit."""

    stage: str
    of: str  # a dataset or its generator, a model, a suite, or suite/model
    units: float  # clips, updates, episodes or control steps; NaN: unknown
    folder: str = ""  # below results/<scale>, if Snakemake times the job
    cfg: Config | None = None


@cache
def settings(scale: str, task: str | None = None, **names: str) -> Config:
    """Settings of a run as the workflow's rules load them; `names` are files in config/."""
    names["scale"] = scale
    order = [name for name in ("suite", "scale", "dataset", "model", "variant") if name in names]
    return load([study.CONFIG / name / f"{names[name]}.yaml" for name in order], task=task)


def jobs(scale: str, of: study.Study) -> Iterator[Job]:
    """Every job of a study that takes time."""
    figures = of.figures.values()
    for name in study.datasets(of):
        data = settings(scale, dataset=name).dataset
        synthetic = data.source == "standin"
        if not data.members:
            clips = data.standin.clips if synthetic else math.nan
            kind = data.standin.name if synthetic else name
            yield Job("videos", kind, clips, f"videos/{name}")
            if data.recorded:
                yield Job("clips", kind, clips, f"clips/{name}")
                continue
            for part in range(data.parts):
                yield Job("clips", kind, clips / data.parts, f"clips/{name}/part-{part:03d}")
    for model in study.all_pretrained(of):
        cfg = settings(scale, dataset=study.videos_of(model.dataset), model=model.model)
        folder = "/".join(map(str, model))
        if not model.dataset.startswith(study.OFFICIAL):
            yield Job("pretrain", model.model, cfg.pretrain.updates, f"pretrain/{folder}", cfg)
        kinds = {figure.kind for figure in figures if model in study.pretrained_runs(figure)}
        if kinds.intersection(PREDICTED):
            yield Job("predict", model.model, cfg.predict.clips, f"predict/{folder}")
        if "invariance" in kinds:
            shadows = settings(scale, dataset=study.SHADOWS).dataset.standin.clips
            yield Job("invariance", model.model, shadows, f"invariance/{folder}")
        if "representations" in kinds:
            yield Job("represent", model.model, cfg.represent.clips, f"represent/{folder}")
    tuned = sorted({run for figure in figures for run in study.finetune_runs(figure)})
    for suite, task in sorted({(run.suite, run.task) for run in tuned}):
        baselines = settings(scale, task, suite=suite, model="contextwm").baselines
        policies = 1 + bool(baselines.trials) + baselines.untrained
        episodes = baselines.episodes * policies + CONSTANTS * baselines.trials
        yield Job("baselines", suite, episodes, f"baselines/{suite}/{task}")
    for run in tuned:
        names = {"suite": run.suite, "model": run.model, "variant": run.variant}
        cfg = settings(scale, run.task, **names)
        folder = "/".join(["finetune", *map(str, run)])
        yield Job("finetune", f"{run.suite}/{run.model}", cfg.finetune.steps, folder, cfg)
    for adapted in sorted({run for figure in figures for run in study.adapted_runs(figure)}):
        cfg = settings(scale, dataset=adapted.recorded, model=adapted.model)
        folder = "/".join(["adapt", *map(str, adapted)])
        yield Job("adapt", adapted.model, cfg.adapt.updates, folder, cfg)
    drawn = len(figures) + 2 * sum(bool(figure.runs) for figure in figures) + 1
    yield from [Job("figures", "", 1)] * drawn


def on_gpu(scale: str) -> bool:
    """Whether a scale's models compute on GPUs."""
    return settings(scale).runtime.device != "cpu"


def finished(scale: str, all_jobs: list[Job]) -> pd.DataFrame:
    """Mean seconds per unit and bytes of finished jobs, by stage and `of`, and how many are `done`.

    Seconds are processor time on a CPU and wall time on a GPU; NaN if no job's time is known.
    """
    rows = []
    for job in all_jobs:
        folder = Path("results", scale, job.folder)
        if job.folder and (folder / "benchmark.tsv").exists():
            clock = "wall" if job.stage in ON_GPU and on_gpu(scale) else "processor"
            size: float = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if job.stage in PER_CLIP:
                size /= job.units
            rows.append((job.stage, job.of, measured(folder)[clock] / job.units, size))
    table = pd.DataFrame(rows, columns=["stage", "of", "seconds", "bytes"])
    return table.groupby(["stage", "of"]).agg(
        seconds=("seconds", "mean"), bytes=("bytes", "mean"), done=("bytes", "size")
    )


def plan(target: str | None, scale: str | None, table: Path, cores: int, gpus: int) -> str:
    """The cost of a figure or a study (`all`) as text; without a target, a line per scale.

    table: written by bench/costs.py. cores, gpus: of the machine that will run it.
    """
    if not study.CONFIG.is_dir():
        raise UserError(f"no folder config in {Path.cwd()}; `cwm init DIR` writes one")
    costs = read_csv(table, COLUMNS, PRICES)
    if target is None:
        names = sorted(path.stem for path in (study.CONFIG / "study").glob("*.yaml"))
        texts = (_text(name, study.load(name), costs, cores, gpus)[0] for name in names)
        return "\n".join(f"{name:9} {text}" for name, text in zip(names, texts, strict=True))
    scale = scale or yaml_file.read(Path("config/config.yaml"))["scale"]
    of = study.load(scale)
    if target != "all":
        name = target.removeprefix("fig_")
        of = replace(of, figures={name: of.figure(name)})
    total, *lines = _text(scale, of, costs, cores, gpus)
    return "\n".join([f"{scale}, {target}: {total}", *lines, *_missing_files(scale, of)])


def _text(
    scale: str, of: study.Study, costs: pd.DataFrame, cores: int, gpus: int
) -> tuple[str, ...]:
    """A line for the whole study, a table of its stages, and where the numbers come from."""
    found = list(jobs(scale, of))
    keys = ["stage", "of"]
    table = pd.DataFrame([job[:3] for job in found], columns=[*keys, "units"])
    known = costs[costs["scale"] == scale].set_index(keys)
    recorded = finished(scale, found)
    prices = recorded.combine_first(known[PRICES])
    table = table.join(prices, on=keys)
    table["hours"] = table["seconds"] * table["units"] / 3600
    per_clip = table["stage"].isin(PER_CLIP)
    table["gigabytes"] = table["bytes"] * table["units"].where(per_clip, 1) / 1e9
    gpu = table["stage"].isin(ON_GPU) & on_gpu(scale)
    slots = gpu.map({True: max(gpus, 1), False: cores})
    stages = table.groupby("stage", sort=False)
    # Stages wait for each other, so a stage takes at least as long as its longest job.
    wall = max((table["hours"] / slots).sum(), stages["hours"].max().sum())
    runs = {run for figure in of.figures.values() for run in study.finetune_runs(figure)}
    parts = [_total(table["hours"][gpu], "GPU-hours")] if gpu.any() else []
    parts.append(_total(table["hours"][~gpu], "core-hours"))
    where = f"{max(gpus, 1)} GPUs and {cores} cores" if gpu.any() else f"{cores} cores"
    parts.append(_total(table["hours"], f"hours on {where}", wall))
    parts.append(_total(table["gigabytes"], "GB"))
    counts = f"{len(runs)} fine-tuning runs, {len(study.all_pretrained(of))} pre-trained models"
    lines = [f"{'':12}{'jobs':>5}{'done':>6}  time"]
    for stage, own in stages:
        done = int(recorded["done"].get(stage, pd.Series(dtype=int)).sum())
        line = f"{stage:12}{len(own):5}{done:6}  {_total(own['hours'], 'hours')}"
        missing = sorted(set(own["of"][own["hours"].isna()]))
        lines.append(line + f" (not measured: {', '.join(missing)})" * any(missing))
    timed = recorded.index[recorded["seconds"].notna()]
    sources = [f"finished jobs in results/{scale}"] if len(timed) else []
    sources += sorted(set(known.loc[known.index.difference(timed), "device"]))
    lines.append(f"Estimated from: {'; '.join(sources) or f'none; run bench/costs.py {scale}'}.")
    return f"{counts}: {', '.join(parts)}", *lines


def _total(values: pd.Series, unit: str, total: float | None = None) -> str:
    """The sum of the known values, marked `at least` if a value is unknown."""
    if values.isna().all():
        return f"{unit} not measured"
    number = f"{values.sum() if total is None else total:.3g} {unit}"
    return f"at least {number}" if values.isna().any() else number


def _missing_files(scale: str, of: study.Study) -> Iterator[str]:
    """Datasets and programs to download, some by hand under a licence."""
    for name in study.datasets(of):
        data = settings(scale, dataset=name).dataset
        if data.source == "folder" and not data.members and not folder_of(name, data).exists():
            amount = f"{data.gigabytes:.3g} GB" if data.gigabytes else "size unknown"
            yield f"Missing: {name}, {amount}. {' '.join(data.by_hand.split())}"
    if any(run.suite == "carla" for f in of.figures.values() for run in study.finetune_runs(f)):
        yield "Needed: the CARLA server, see docs/carla.md."
