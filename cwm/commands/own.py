"""A folder of one's own videos -> a pre-trained model, its predictions and a page about both."""

import logging
import shlex
from dataclasses import replace
from pathlib import Path

from cwm import config
from cwm.commands.run_spec import run_spec
from cwm.evaluate.predict import predict_clips
from cwm.infra import json_file
from cwm.infra.run_dir import RunDir, RunSpec
from cwm.infra.source import git_commit
from cwm.train.pretrain import pretrain
from cwm.videos.build import make_clips
from cwm.videos.datasets import collect
from cwm.videos.decode import decode_part, part_folder

log = logging.getLogger(__name__)
NAME = "videos"  # of config/dataset/videos.yaml


def pretrain_on(folder: Path, scale: str, out: Path, workers: int) -> None:
    """The rules of a study for one dataset and ContextWM, in one go, to `out/report.html`.

    What is done already is not done again: new videos cost their own decoding, and training.
    """
    files = [Path("config") / name for name in (f"scale/{scale}.yaml", f"dataset/{NAME}.yaml")]
    files.append(Path("config/model/contextwm.yaml"))
    cfg = config.load(files)
    data = replace(cfg.dataset, source="folder", folder=folder.resolve())
    listed, store, weights = out / "videos.jsonl", out / "clips/store.json", out / "weights.json"
    collect(NAME, data, out, workers)
    for part in range(data.parts):
        decode_part(NAME, data, listed, part, out / "clips" / part_folder(part), workers)
    make_clips(NAME, data, listed, out / "clips")

    sections = ("runtime", "model", "pretrain")
    todo = run_spec("pretrain", NAME, cfg, sections, files, {"clips": store})
    if not _made(todo, weights):
        with RunDir(todo, out, cfg.pretrain.checkpoint_seconds) as run:
            pretrain(cfg.runtime, cfg.model, cfg.pretrain, store, run)
    inputs = {"clips": store, "weights": weights}
    todo = run_spec("predict", NAME, cfg, (*sections, "predict"), files, inputs)
    if not _made(todo, out / "prediction/errors.csv"):
        with RunDir(todo, out / "prediction", cfg.pretrain.checkpoint_seconds) as run:
            predict_clips(cfg.runtime, cfg.model, cfg.pretrain, cfg.predict, *inputs.values(), run)
    _show(folder, out, store, weights)


def _made(todo: RunSpec, last: Path) -> bool:
    """Whether the folder holds this run, to its last file."""
    about = last.with_name("run.json")
    if not (last.exists() and about.exists()):
        return False
    return json_file.read(about, remedy="delete it").get("key") == todo.key


def _show(folder: Path, out: Path, store: Path, weights: Path) -> None:
    from cwm.analysis.provenance import FigureMeta
    from cwm.analysis.report import write_report
    from cwm.analysis.video_figures import draw_prediction

    command = shlex.join(["cwm", "videos", str(folder), "--out", str(out)])
    errors = out / "prediction/errors.csv"
    title = "Prediction of a video that was not trained on"
    meta = FigureMeta(title, command, git_commit(), data=(errors,))
    draw_prediction([errors], out / "prediction/strip", meta)
    strip = out / "prediction/strip.json"
    scale = json_file.read(strip)["scale"]
    write_report(scale, [strip], [], [store], [], out / "report.html", [weights])
    log.info("weights: %s; to look at: %s", out / "weights.safetensors", out / "report.html")
