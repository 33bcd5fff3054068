"""Whole runs at smoke scale, with and without CUDA graphs, must write the same bytes.

`make gpu-check` compares them on a GPU; tests/gpu compares them on a CPU that emulates CUDA graphs.
The runs add to smoke scale bfloat16, dropout, and an evaluation in the middle of an episode, whose
policy shares a captured graph with the training policy.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from bench import inputs
from cwm import config
from cwm.commands.run_spec import run_spec
from cwm.infra.run_dir import RunDir
from cwm.train import finetune, offline, pretrain

CONFIG = Path(__file__).parents[1] / "config"
SETTINGS = ["runtime.precision=bf16", "runtime.deterministic=true", "model.context.dropout=0.1"]
FILES = ("metrics.jsonl", "scores.csv", "weights.safetensors")


class WholeRun(NamedTuple):
    """A run and the events, an update or an environment step, before which it is interrupted."""

    stage: str
    sets: tuple[str, ...] = ()
    stops: tuple[tuple[str, int], ...] = ()


ACTING = ("finetune.eval_every=7", "finetune.train_every=3")  # an episode has 20 steps
RUNS = {
    "pre-training": WholeRun("pretrain"),
    "pre-training, stopped": WholeRun("pretrain", stops=(("update", 4), ("update", 7))),
    "fine-tuning": WholeRun("finetune", ACTING),
    "fine-tuning, stopped": WholeRun("finetune", ACTING, (("act", 17), ("act", 46), ("act", 73))),
    "fine-tuning, overlapped": WholeRun("finetune", (*ACTING, "finetune.overlap=true")),
}
STOPPED = [name for name, run in RUNS.items() if run.stops]


def compare(name: str, device: str = "auto") -> dict[str, bool]:
    """For each file of the run, whether it is the same with and without graphs.

    Only the run with graphs is interrupted: a resumed run must equal an uninterrupted one.
    """
    run = RUNS[name]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        sets = [f"runtime.device={device}"]
        eager = files(run._replace(stops=()), Path("eager"), [*sets, "runtime.graphs=false"])
        captured = files(run, Path("captured"), [*sets, "runtime.graphs=true"])
    return {file: captured[file] == content for file, content in eager.items()}


def files(run: WholeRun, out: Path, sets: list[str]) -> dict[str, bytes]:
    """Run in the folder `out`, resuming after interruptions; return the published files."""
    folders = {"scale": "smoke", "model": "contextwm"}
    if run.stage == "finetune":
        folders |= {"suite": "toy", "variant": "standard"}
    layers = [CONFIG / folder / f"{name}.yaml" for folder, name in folders.items()]
    cfg = config.load(layers, [*SETTINGS, *run.sets, *sets], "blob" if "suite" in folders else None)
    with stopping(run.stops):
        finished = False
        while not finished:
            with contextlib.suppress(KeyboardInterrupt):
                once(run, cfg, layers, out)
                finished = True
    return {name: (out / name).read_bytes() for name in FILES if (out / name).exists()}


def once(run: WholeRun, cfg: config.Config, layers: list[Path], out: Path) -> None:
    """Begin or resume the run; if it will be interrupted, it writes every possible checkpoint."""
    seconds = 0.0 if run.stops else 1e9
    if run.stage == "pretrain":
        clips = Path("clips/store.json")
        if not clips.exists():
            clips.parent.mkdir()
            inputs.clip_store(clips.parent, 12, 20, heldout=2)
        spec = run_spec("pretrain", "made up", cfg, layers, {"clips": clips}, 0)
        with RunDir(spec, out, seconds) as entry:
            pretrain.pretrain(cfg.runtime, cfg.model, cfg.pretrain, clips, entry)
        return
    spec = run_spec("finetune", "toy/blob", cfg, layers, {}, 0)
    with RunDir(spec, out, seconds) as entry, patch.object(finetune, "encode", no_video):
        loop = finetune.FinetuneLoop(cfg.runtime, cfg.model, cfg.env, cfg.finetune, None, entry)
        finetune.finetune(loop)


def no_video(path: Path, *_: Any) -> None:
    """Replaces the video encoder, because ffmpeg may be missing."""
    path.write_bytes(b"")


@contextlib.contextmanager
def stopping(stops: tuple[tuple[str, int], ...]) -> Iterator[None]:
    """Interrupt runs once at each of these events, where they seed the random generators."""
    left = list(stops)

    def reseed(seed: int, *event: Any) -> None:
        if event in left:
            left.remove(event)
            raise KeyboardInterrupt
        original(seed, *event)

    original = offline.reseed
    with patch.object(offline, "reseed", reseed), patch.object(finetune, "reseed", reseed):
        yield
    if left:
        raise RuntimeError(f"the run was not interrupted at {left}")
