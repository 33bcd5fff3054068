"""The folder of a run: logs, checkpoints and published results.

A run in progress lives in `results/<scale>/work/<key>`, because Snakemake deletes a job's declared
outputs before it starts the job again. The key is a hash of everything that the result depends on,
so a run never resumes from the work of a different one.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat, TextIO

import torch
from torch import Tensor

from cwm import NUMERICS
from cwm.infra import tracking
from cwm.infra.checkpoint import Checkpoints
from cwm.infra.device import processor_name
from cwm.infra.errors import UserError
from cwm.infra.files import atomic_write, file_lock, write_bytes, write_text
from cwm.infra.model_card import model_card
from cwm.infra.source import git_commit


class Score(NamedTuple):
    """One episode: a row of scores.csv."""

    step: int  # control steps that the training environment has taken
    episode: int
    return_: float
    success: float | None  # None: the suite does not define success
    length: int  # agent steps
    split: str  # train | eval


LOGS = ("metrics.jsonl", "timing.jsonl", "scores.csv")
FINISHED = ".finished"  # suffix of a work folder that is being deleted
HEADER = "step,episode,return,success,length,split\n"


class RunSpec(NamedTuple):
    """What identifies a run."""

    stage: str  # pretrain | finetune | ...
    what: str  # dataset, or suite/task
    labels: dict[str, str | int]  # scale, suite, task, recorded, model, dataset, variant, seed
    config: dict[str, Any]  # resolved
    inputs: dict[str, str]  # name of an input -> sha256
    data: str = ""  # description and terms of use of the dataset; not part of the key
    parts: tuple[int, ...] = ()  # of the dataset, if not all; settings and inputs imply them

    @property
    def identity(self) -> dict[str, Any]:
        """What all ranks of a run must agree on."""
        code = {"numerics": NUMERICS, "torch": torch.__version__}
        return {**self.config, "inputs": self.inputs, "code": code}

    @property
    def key(self) -> str:
        """Hash of everything that the result depends on."""
        seed = self.labels.get("seed", 0)
        identity = [self.stage, self.what, seed, self.config, self.inputs]
        identity += [NUMERICS, torch.__version__]
        return _sha256(json.dumps(identity, sort_keys=True).encode())[:16]


class RunDir:
    """Logs and checkpoints of a run in progress; `publish` puts the results in the folder `out`.

    Entering it locks the run and `out`; UserError if another process holds one of the locks.
    """

    console: TextIO | None = None  # of the progress; None: stderr

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
        out = _sha256(os.fsencode(self.out.resolve()))[:16]
        self.locks = [
            file_lock(self.folder.with_suffix(".lock"), f"making this run (in {self.folder})"),
            file_lock(root / f"out-{out}.lock", f"making {self.out} with other settings"),
        ]
        self.folder.mkdir(exist_ok=True)
        for leftover in root.glob("*" + FINISHED):
            shutil.rmtree(leftover, ignore_errors=True)
        for path in self.folder.iterdir():
            # A killed `publish` leaves hard links. Break them, so published files stay unchanged.
            if path.is_file() and path.stat().st_nlink > 1:
                write_bytes(path, path.read_bytes())
        import yaml  # not at the top: training needs no YAML

        text = yaml.safe_dump(self.spec.config, sort_keys=False)
        write_text(self.folder / "config.yaml", text)
        self._write_run_json()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and issubclass(kind, Exception):
            tracking.sync(self.folder, failed=True)
        for lock in self.locks:
            lock.close()

    def _write_run_json(self) -> dict[str, Any]:
        """Write run.json and return its content."""
        spec = self.spec
        gpu = torch.cuda.is_initialized()  # false when the run starts, so `publish` writes it again
        versions = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": torch.cuda.get_device_name() if gpu else processor_name(),
        }
        content = {
            "stage": spec.stage,
            **spec.labels,
            "key": spec.key,
            "inputs": spec.inputs,
            **({"parts": spec.parts} if spec.parts else {}),
            "command": shlex.join(["cwm", *sys.argv[1:]]),
            "commit": git_commit(),
            "versions": versions,
        }
        write_text(self.folder / "run.json", json.dumps(content, indent=1) + "\n")
        return content

    @property
    def label(self) -> str:
        """Name of the run in logs."""
        labels, what = self.spec.labels, self.spec.what
        names = (labels.get(name, what) for name in ("model", "dataset", "variant", "seed"))
        return f"{self.spec.stage} {what} {'/'.join(str(name) for name in names if name != what)}"

    def log(self, step: int, metrics: Mapping[str, SupportsFloat], rate: float) -> dict[str, float]:
        """Append a line to metrics.jsonl and to timing.jsonl; return the metrics as floats."""
        values = {name: float(x) for name, x in metrics.items()}
        timing = {"time": time.time(), "steps_per_second": rate, "processor": processor_seconds()}
        for name, line in (("metrics.jsonl", values), ("timing.jsonl", timing)):
            with (self.folder / name).open("a") as file:
                file.write(json.dumps({"step": step, **line}) + "\n")
        tracking.sync(self.folder)
        return values

    def score(self, scores: list[Score]) -> None:
        """Append episodes to scores.csv."""
        path = self.folder / "scores.csv"
        with path.open("a", newline="") as file:
            if file.tell() == 0:
                file.write(HEADER)
            rows = ([*s[:3], "" if s.success is None else s.success, *s[4:]] for s in scores)
            csv.writer(file, lineterminator="\n").writerows(rows)

    def due(self) -> bool:
        """Whether it is time for a checkpoint. The times of checkpoints do not affect results."""
        return time.monotonic() - self.saved >= self.checkpoint_seconds

    def checkpoint(self, step: int, tensors: dict[str, dict[str, Tensor]], **state: Any) -> None:
        """Save a checkpoint of tensors and state, with the sizes and hashes of the logs."""
        logs = {name: _content(self.folder / name) for name in LOGS}
        ends = {name: (len(content), _sha256(content)) for name, content in logs.items()}
        self.checkpoints.save(step, tensors, {"step": step, "logs": ends, **state})
        self.saved = time.monotonic()

    def resume(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """Return the latest checkpoint, or None, and truncate the logs to it.

        Raises UserError if the checkpoint or a log is damaged.
        """
        found = self.checkpoints.latest()
        ends = found[1]["logs"] if found else dict.fromkeys(LOGS, (0, _sha256(b"")))
        for name, (size, digest) in ends.items():
            path = self.folder / name
            if _sha256(_content(path)[:size]) != digest:
                raise UserError(
                    f"{path} has changed since the last checkpoint; restore it from a copy, or"
                    f" delete {self.folder} to restart this run"
                )
            if path.exists():
                os.truncate(path, size)
        return found

    def publish(self, *names: str) -> None:
        """Put the finished run's files into `out`, in this order, then delete the work folder.

        A model card is added to weights.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        run = self._write_run_json()
        if "weights.json" in names:
            write_text(self.folder / "card.md", model_card(self.folder, run, self.spec.data))
            names = ("card.md", *names)
        for name in ["run.json", "config.yaml", *names]:
            with atomic_write(self.out / name) as temporary:
                try:  # a hard link keeps the work folder complete until all files are published
                    os.link(self.folder / name, temporary)
                except OSError:  # another file system, or one without hard links
                    shutil.copyfile(self.folder / name, temporary)
        tracking.sync(self.out)
        with _ignore_signals():
            # Rename first: a half-deleted folder must not look resumable.
            finished = self.folder.rename(self.folder.with_suffix(FINISHED))
            shutil.rmtree(finished, ignore_errors=True)
            for lock in self.locks:
                Path(lock.name).unlink(missing_ok=True)


class FollowedRun(RunDir):
    """A run as its ranks other than 0 see it: they write nothing."""

    def __enter__(self) -> "FollowedRun":
        self.console = Path(os.devnull).open("w")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def resume(self) -> None:
        """Rank 0 sends its state (`Trained.resume`)."""

    def log(self, step: int, metrics: Mapping[str, SupportsFloat], rate: float) -> dict[str, float]:
        """Log nothing."""
        return {}

    def due(self) -> bool:
        """Never."""
        return False


@contextmanager
def _ignore_signals() -> Iterator[None]:
    """Ignore SIGINT and SIGTERM: Snakemake deletes the outputs of a job that a signal ended."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def processor_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usage = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in usage)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
