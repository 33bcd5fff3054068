"""What a figure or a study costs, before anything runs.

A job is a sum of units (an update, a clip filmed, ...), which `bench/costs.py` measures apart from
any run. A unit goes by the settings that its time depends on: edit them, and it has not been
measured.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cwm import study
from cwm.analysis.cost import measured
from cwm.analysis.runs import read_csv
from cwm.config import Config, load, resolved
from cwm.infra import yaml_file
from cwm.videos.datasets import folder_of

CONSTANTS = 9  # actions that `cwm baselines` tries in two dimensions, and about as many in others
PREDICTED = ("prediction", "prediction_errors", "composition", "cost")  # kinds of figures
PRICES = ["seconds", "low", "high", "bytes"]  # of a unit; bytes are of a clip, or of a whole run
PER_CLIP = ("film", "decode")


@dataclass(frozen=True)
class Unit:
    """Something that takes the same time whenever it is done with the same settings."""

    what: str  # start | draw | film | decode | pretrain | watch | update | collect | evaluate
    of: str = ""  # a stand-in, a model, or suite/task/model
    settings: str = ""  # hash of those that the time depends on
    cfg: Config | None = field(default=None, compare=False)


class Job(NamedTuple):
    """What a job does; its folder below `results/<scale>` if Snakemake times it."""

    stage: str
    folder: str
    work: dict[Unit, float]
    gpu: bool = False


START, DRAW = Unit("start"), Unit("draw")


@cache
def settings(scale: str, task: str | None = None, **names: str) -> Config:
    """The settings that the rules give a run; `names` of files in config/."""
    names["scale"] = scale
    order = [name for name in ("suite", "scale", "dataset", "model", "variant") if name in names]
    return load([study.CONFIG / name / f"{names[name]}.yaml" for name in order], task=task)


def unit(what: str, of: str, cfg: Config) -> Unit:
    """A unit of a run with these settings."""
    values = resolved(cfg, ("runtime", "model", "env", "pretrain", "finetune"))
    pretrain, finetune, env = values["pretrain"], values["finetune"], values["env"]
    env.pop("server")
    depends = {
        "pretrain": {name: pretrain[name] for name in ("world", "optimizer", "batch", "length")},
        "watch": {name: pretrain[name] for name in ("batch", "length")},
        "update": {name: finetune[name] for name in ("agent", "batch", "length")},
        "collect": env,
        "evaluate": [env, finetune["eval_envs"]],
    }
    told = json.dumps([values["runtime"], values["model"], depends[what]], sort_keys=True)
    return Unit(what, of, hashlib.sha256(told.encode()).hexdigest()[:12], cfg)


def jobs(scale: str, of: study.Study) -> Iterator[Job]:
    """Every job of a study."""
    figures = of.figures.values()
    for name in study.datasets(of):
        data = settings(scale, dataset=name).dataset
        standin, stage = data.source == "standin", "videos and clips"
        if not data.members:
            clips = data.standin.clips if standin else math.nan
            film = {Unit("film", data.standin.name): clips} if standin else {}
            yield Job(stage, f"videos/{name}", {START: 1} | film)
            part = {START: 1, Unit("decode", data.standin.name): clips / data.parts}
            yield from (Job(stage, f"clips/{name}/part-{i:03d}", part) for i in range(data.parts))
        yield Job(stage, "", {START: 1})
    for run in study.all_pretrained(of):
        cfg = settings(scale, dataset=study.videos_of(run.dataset), model=run.model)
        pretrain, watch = (unit(what, run.model, cfg) for what in ("pretrain", "watch"))
        looks = cfg.pretrain.updates // cfg.pretrain.heldout_every
        work = {pretrain: cfg.pretrain.updates, watch: looks * cfg.pretrain.heldout_clips}
        folder, official = "/".join(map(str, run)), run.dataset.startswith(study.OFFICIAL)
        yield Job(
            "pre-training", f"pretrain/{folder}", {START: 1} | ({} if official else work), True
        )
        kinds = {figure.kind for figure in figures if run in study.pretrained_runs(figure)}
        data = cfg.dataset
        there = data.standin.clips if data.source == "standin" else math.inf
        if kinds.intersection(PREDICTED):
            seen = {START: 1, watch: min(cfg.predict.clips, data.heldout * there)}
            yield Job("prediction", f"predict/{folder}", seen, True)
        if "representations" in kinds:  # of two labels and both splits, trained and untrained
            seen = {START: 1, watch: 2 * min(4 * cfg.represent.clips, there / 2)}
            yield Job("prediction", f"represent/{folder}", seen, True)
    tuned = sorted({run for figure in figures for run in study.finetune_runs(figure)})
    for suite, task in sorted({(run.suite, run.task) for run in tuned}):
        cfg = settings(scale, task, suite=suite, model="contextwm")
        policies = 1 + bool(cfg.baselines.trials) + cfg.baselines.untrained
        episodes = cfg.baselines.episodes * policies + CONSTANTS * cfg.baselines.trials
        work = {START: 1, unit("evaluate", f"{suite}/{task}/contextwm", cfg): episodes}
        yield Job("baselines", f"baselines/{suite}/{task}", work, True)
    for run in tuned:
        names = {"suite": run.suite, "model": run.model, "variant": run.variant}
        cfg = settings(scale, run.task, **names)
        c, where = cfg.finetune, f"{run.suite}/{run.task}/{run.model}"
        updates = c.offline_updates + -(-(c.steps - c.prefill) // c.train_every)
        episodes = (1 + -(-(c.steps - c.prefill) // c.eval_every)) * c.eval_episodes
        work = {unit("update", f"{where}/{run.variant}", cfg): updates}
        work |= {unit("collect", where, cfg): c.steps, unit("evaluate", where, cfg): episodes}
        folder = "/".join(["finetune", *map(str, run)])
        yield Job(f"fine-tuning, {run.suite}", folder, {START: 1} | work, True)
    drawn = len(figures) + 2 * sum(bool(figure.runs) for figure in figures) + 1
    yield from [Job("figures and report", "", {DRAW: 1})] * drawn


def plan(target: str | None, scale: str | None, table: Path, cores: int, gpus: int) -> str:
    """In words, what a figure costs, or a study (`all`), or without a target every scale.

    table: of bench/costs.py. cores, gpus: of the machine that it will run on.
    """
    rows = read_csv(table, ["what", "of", "settings", "machine", "commit"], PRICES)
    units = (Unit(*names) for names in rows[["what", "of", "settings"]].itertuples(index=False))
    costs = dict(zip(units, rows[PRICES].to_numpy(), strict=True))
    if target is None:
        names = sorted(path.stem for path in (study.CONFIG / "study").glob("*.yaml"))
        return "\n".join(f"{x:9} {_priced(x, study.load(x), costs, cores, gpus)[0]}" for x in names)
    scale = scale or yaml_file.read(Path("config/config.yaml"))["scale"]
    of = study.load(scale)
    if target != "all":
        name = target.removeprefix("fig_")
        of = study.Study({name: of.figure(name)})
    words, stages = _priced(scale, of, costs, cores, gpus)
    code = rows["commit"].str[:7] + rows["commit"].str[40:]  # with `-dirty`
    where = sorted(set(rows["machine"] + ", commit " + code))
    lines = [f"{scale}, {target}: {words}", stages, *_wanting(scale, of)]
    if missing := {unit for job in jobs(scale, of) for unit in job.work} - costs.keys():
        names = ", ".join(sorted(f"{unit.what} {unit.of}" for unit in missing))
        lines.append(f"Not measured: {names}. `python bench/costs.py {scale}` does it, there.")
    return "\n".join([*lines, f"Measured on {'; '.join(where)}."])


def _priced(
    scale: str, of: study.Study, costs: dict[Unit, np.ndarray], cores: int, gpus: int
) -> tuple[str, str]:
    """A line on all of a study, and a table of its stages beside what is done of them."""
    unknown, rows = np.full(len(PRICES), math.nan), []
    gpu = settings(scale).runtime.device != "cpu"
    for job in jobs(scale, of):
        each = [[n, n, n, n if unit.what in PER_CLIP else 1] for unit, n in job.work.items()]
        prices = sum(costs.get(unit, unknown) * n for unit, n in zip(job.work, each, strict=True))
        rows.append((job.stage, job.gpu and gpu, *prices, _spent(scale, job, gpu)))
    table = pd.DataFrame(rows, columns=["stage", "gpu", *PRICES, "spent"])
    slots = np.where(table["gpu"], gpus or math.nan, cores)
    by_stage = table.groupby("stage", sort=False)
    # Stages wait for each other, so none is over before its longest job.
    wall = max((table["seconds"] / slots).sum(skipna=False), by_stage["seconds"].max().sum())
    runs = {run for figure in of.figures.values() for run in study.finetune_runs(figure)}
    words = (
        f"{len(runs)} fine-tuning runs, {len(study.all_pretrained(of))} pre-trained models: "
        + f"{_hours(table[table['gpu']])} GPU-hours, " * gpu
        + f"{_hours(table[~table['gpu']])} core-hours, {_number(wall / 3600)} hours on "
        + f"{gpus} GPUs and " * gpu
        + f"{cores} cores, {_number(table['bytes'].sum(skipna=False) / 1e9)} GB"
    )
    lines = [f"{'':28}{'jobs':>4}  {'hours [spread]':24}done: measured hours (as predicted)"]
    for stage, of_stage in by_stage:
        line = f"{stage:28}{len(of_stage):4}  {_hours(of_stage):24}"
        if len(done := of_stage.dropna(subset="spent")):
            measured, predicted = (done[name].sum() / 3600 for name in ("spent", "seconds"))
            line += f"{len(done)}: {_number(measured)} ({_number(predicted)})"
        lines.append(line.rstrip())
    return words, "\n".join(lines)


def _spent(scale: str, job: Job, gpu: bool) -> float:
    """Seconds that a job took, of the processor or beside a GPU; NaN if not all of it was timed."""
    folder = Path("results", scale, job.folder)
    if not job.folder or not (folder / "benchmark.tsv").exists():
        return math.nan
    return measured(folder)["wall" if job.gpu and gpu else "processor"]


def _wanting(scale: str, of: study.Study) -> Iterator[str]:
    """What has yet to be downloaded, or fetched by a person."""
    for name in study.datasets(of):
        data = settings(scale, dataset=name).dataset
        if data.source == "folder" and not data.members and not folder_of(name, data).exists():
            known = [archive.bytes or math.nan for archive in data.archives] or [math.nan]
            size = _number(data.gigabytes or sum(known) / 1e9)
            yield f"To get: {name}, {size} GB. {' '.join(data.by_hand.split())}"
    if any(run.suite == "carla" for f in of.figures.values() for run in study.finetune_runs(f)):
        yield "To get: CARLA's server, see docs/carla.md."


def _number(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.3g}"


def _hours(table: pd.DataFrame) -> str:
    value, low, high = (_number(table[x].sum(skipna=False) / 3600) for x in PRICES[:3])
    return value if value == low else f"{value} [{low}, {high}]"
