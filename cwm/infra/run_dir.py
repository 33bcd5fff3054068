"""A run is a folder; while it is being made, a work folder that survives every interruption.

`work/<key>` in `results/<scale>` holds the run in progress: Snakemake deletes declared outputs
before it starts a job again, so nothing that took time may lie among them. The key is a hash of
everything that the result depends on, so that a run never goes on from work done for another.
"""

import csv
import hashlib
import json
import os
import platform
import resource
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cwm import NUMERICS
from cwm.infra import tracking
from cwm.infra.checkpoint import Checkpoints
from cwm.infra.errors import UserError
from cwm.infra.files import atomic_write, file_lock, write_bytes, write_text
from cwm.infra.model_card import card
from cwm.infra.runtime import processor_name
from cwm.infra.source import commit


class Score(NamedTuple):
    """One episode, a row of `scores.csv`."""

    step: int  # control steps that the training environment has taken
    episode: int
    return_: float
    success: float | None  # none: the suite does not say
    length: int  # agent steps
    split: str  # train | eval


LOGS = ("metrics.jsonl", "timing.jsonl", "scores.csv")
FINISHED = ".finished"  # the suffix of a work folder that is being deleted
HEADER = "step,episode,return,success,length,split\n"


class RunSpec(NamedTuple):
    """What identifies a run."""

    stage: str  # pretrain | finetune | ...
    what: str  # dataset, or suite/task
    labels: dict[str, str | int]  # scale, suite, task, model, dataset, variant, seed
    config: dict[str, Any]  # resolved
    inputs: dict[str, str]  # name of an input -> sha256
    data: str = ""  # what the dataset is and its terms of use; no part of the key

    @property
    def key(self) -> str:
        """Hash of everything that the result depends on."""
        seed = self.labels.get("seed", 0)
        identity = [self.stage, self.what, seed, self.config, self.inputs]
        identity += [NUMERICS, torch.__version__]
        text = json.dumps(identity, sort_keys=True)
        return _sha256(text.encode())[:16]


class RunDir:
    """Logs and checkpoints of a run in progress; `publish` moves the finished run to its place."""

    def __init__(self, spec: RunSpec, out: Path, checkpoint_seconds: float) -> None:
        self.spec = spec
        self.out = out
        root = Path("results") / str(spec.labels.get("scale", "paper")) / "work"
        self.folder = root / spec.key
        self.checkpoints = Checkpoints(self.folder / "checkpoint")
        self.checkpoint_seconds = checkpoint_seconds
        self.saved = time.monotonic()

    def __enter__(self) -> "RunDir":
        root = self.folder.parent
        root.mkdir(parents=True, exist_ok=True)
        place = _sha256(os.fsencode(self.out.resolve()))[:16]
        self.locks = [
            file_lock(self.folder.with_suffix(".lock"), f"making this run (in {self.folder})"),
            file_lock(root / f"out-{place}.lock", f"making {self.out} with other settings"),
        ]
        self.folder.mkdir(exist_ok=True)
        for left in self.folder.parent.glob("*" + FINISHED):  # by a run that was killed at its end
            shutil.rmtree(left, ignore_errors=True)
        for path in self.folder.iterdir():  # perhaps published already, by a run killed then
            if path.is_file() and path.stat().st_nlink > 1:
                write_bytes(path, path.read_bytes())  # its own, so that those stay as they are
        write_text(self.folder / "config.yaml", _yaml(self.spec.config))
        self._write_about()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            tracking.sync(self.folder, failed=True)
        for lock in self.locks:
            lock.close()

    def _about(self) -> dict[str, Any]:
        spec = self.spec
        command = shlex.join(["cwm", *sys.argv[1:]])
        about = {"stage": spec.stage, **spec.labels, "key": spec.key, "inputs": spec.inputs}
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        gpu = torch.cuda.is_initialized()  # not yet when the run begins
        versions["machine"] = torch.cuda.get_device_name() if gpu else processor_name()
        return about | {"command": command, "commit": commit(), "versions": versions}

    def _write_about(self) -> None:
        write_text(self.folder / "run.json", json.dumps(self._about(), indent=1) + "\n")

    @property
    def label(self) -> str:
        """How the run is called in logs."""
        labels, what = self.spec.labels, self.spec.what
        names = (labels.get(name, what) for name in ("model", "dataset", "variant", "seed"))
        return f"{self.spec.stage} {what} {'/'.join(str(name) for name in names if name != what)}"

    def log(self, step: int, figures: dict[str, Tensor | float], rate: float) -> dict[str, float]:
        """Append a line of metrics and its wall-clock side; returns the figures as numbers."""
        values = {name: float(x) for name, x in figures.items()}
        _append(self.folder / "metrics.jsonl", json.dumps({"step": step, **values}))
        clock = {"step": step, "time": time.time(), "steps_per_second": rate}
        clock["processor"] = processor_seconds()
        _append(self.folder / "timing.jsonl", json.dumps(clock))
        tracking.sync(self.folder)
        return values

    def score(self, scores: list[Score]) -> None:
        """Append episodes to `scores.csv`."""
        path = self.folder / "scores.csv"
        with path.open("a", newline="") as file:
            if file.tell() == 0:
                file.write(HEADER)
            rows = ([*s[:3], "" if s.success is None else s.success, *s[4:]] for s in scores)
            csv.writer(file, lineterminator="\n").writerows(rows)

    def due(self) -> bool:
        """Whether it is time for a checkpoint. When one is made changes no result."""
        return time.monotonic() - self.saved >= self.checkpoint_seconds

    def checkpoint(self, step: int, tensors: dict[str, dict[str, Tensor]], **state: Any) -> None:
        """Save what the run needs to go on from `step`, and how far its logs had come."""
        logs = {name: _content(self.folder / name) for name in LOGS}
        ends = {name: (len(content), _sha256(content)) for name, content in logs.items()}
        self.checkpoints.save(step, tensors, {"step": step, "logs": ends, **state})
        self.saved = time.monotonic()

    def resume(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """The last checkpoint, with the logs cut back to it; None at the beginning."""
        found = self.checkpoints.latest()
        ends = found[1]["logs"] if found else dict.fromkeys(LOGS, (0, _sha256(b"")))
        for name, (size, digest) in ends.items():
            path = self.folder / name
            if _sha256(_content(path)[:size]) != digest:
                raise UserError(
                    f"{path} is not what it was at the last checkpoint; put it back, or delete"
                    f" {self.folder} to begin this run anew"
                )
            if path.exists():
                os.truncate(path, size)
        return found

    def publish(self, *names: str) -> None:
        """Move the finished run's files to their place, in this order; its work is then gone.

        Weights come with a card.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        self._write_about()
        if "weights.json" in names:
            write_text(self.folder / "card.md", card(self.folder, self._about(), self.spec.data))
            names = ("card.md", *names)
        for name in ["run.json", "config.yaml", *names]:
            # A hard link keeps the work complete until everything is in place.
            with atomic_write(self.out / name) as temporary:
                _link(self.folder / name, temporary)
        tracking.sync(self.out)
        with _unstoppable():
            # At once, since what a kill leaves of a folder would be taken for work to go on from.
            finished = self.folder.rename(self.folder.with_suffix(FINISHED))
            shutil.rmtree(finished, ignore_errors=True)
            for lock in self.locks:
                Path(lock.name).unlink(missing_ok=True)


@contextmanager
def _unstoppable() -> Iterator[None]:
    """Finish what has begun: Snakemake deletes the outputs of a job that was told to stop."""
    stops = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in stops]
    try:
        yield
    finally:
        for number, handler in zip(stops, before, strict=True):
            signal.signal(number, handler)


def processor_seconds() -> float:
    """What this process and its children that have ended took of the processor."""
    usage = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in usage)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _yaml(values: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(values, sort_keys=False)
