"""Bad input by the thousand: `make fuzz`, and in short `test_fuzz.py`.

Real files are damaged in every way that hypothesis thinks of and given to the command line, which
runs in this process behind an audit hook, and for a sample of the inputs in a process of its own.
An answer is good when it is exit status 0, or 2 and one line that says what is wrong: no traceback,
in time, nothing written outside the folder, no program started but ffmpeg and git.
"""

import argparse
import contextlib
import io
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import joblib
import torch
from hypothesis import strategies as st

from cwm import cli

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
SAMPLE = 100  # every so many inputs also in a process of its own
LIMIT = 240  # seconds for one command, on a busy machine too
MEMORY = 16 << 30  # bytes of address space
PROGRAMS = ("ffmpeg", "git", "nvidia-smi")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Draw = Callable[[st.SearchStrategy], Any]
# Puts an input into the current folder; returns the commands to be given in turn.
Kind = Callable[[Draw], list[list[str]]]


class Guard:
    """What Python is about to do that no input may bring it to, while a folder is set."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.found: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if self.folder is None:
            return
        if event == "open":
            path, mode, flags = args
            writes = flags & WRITING or (isinstance(mode, str) and set(mode) & set("wax+"))
            if writes and isinstance(path, str | bytes | os.PathLike):
                self._inside(event, path)
        elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate"):
            for path in args[: 1 + (event == "os.rename")]:
                self._inside(event, path)
        elif event in ("os.link", "os.symlink"):
            self._inside(event, args[1])
        elif event == "subprocess.Popen":
            if not Path(os.fsdecode(args[0])).name.startswith(PROGRAMS):
                self.found.append(f"started {args[0]}")
        elif event in ("os.system", "os.exec", "os.posix_spawn", "socket.connect"):
            self.found.append(f"{event} {args}")

    def _inside(self, event: str, path: object) -> None:
        if isinstance(path, int):
            return
        whole = os.path.normpath(Path.cwd() / os.fsdecode(path))
        if not whole.startswith((self.folder + "/", "/dev/")) and whole != self.folder:
            self.found.append(f"{event} {whole}")


joblib.cpu_count(only_physical_cores=True)  # starts lscpu, once in a process
GUARD = Guard()


class Hang(BaseException):
    """A command that takes too long."""


def _too_long(*_: object) -> None:
    raise Hang


def call(argv: list[str]) -> tuple[int, str]:
    """Exit status and the last line of a command, run as its entry point would."""
    said = io.StringIO()
    sys.argv = ["cwm", *argv]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0), last_line(said.getvalue())
    return 0, last_line(said.getvalue())


def last_line(text: str) -> str:
    """What a person reads last; of Typer's own errors, that there is one."""
    if "Usage: cwm" in text:
        return "usage"
    return text.strip().splitlines()[-1] if text.strip() else ""


def apart(argv: list[str]) -> tuple[int, str]:
    """The same in a process of its own."""
    command = [Path(sys.executable).with_name("cwm"), *argv]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LIMIT)
    assert "Traceback" not in done.stderr, done.stderr[-900:]
    return done.returncode, last_line(done.stdout + done.stderr)


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder to be in, with neighbours that must stay as they are."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="cwm-fuzz-") as name:
        folder = Path(name).resolve() / "inside/here"
        folder.mkdir(parents=True)
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def answer(kind: Kind, draw: Draw, real: bool) -> str:
    """Give one input to the product; `accepted` or `refused`, or an AssertionError."""
    with own_folder() as folder:
        commands = kind(draw)
        copy = folder.parents[1] / "copy/here"
        if real:
            shutil.copytree(folder, copy, symlinks=True)
        status = 0
        for argv in commands:
            GUARD.folder, GUARD.found = str(folder), []
            signal.setitimer(signal.ITIMER_REAL, LIMIT)
            try:
                status, line = call(argv)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                GUARD.folder = None
            assert status in (0, 2), (status, line, argv)
            assert status == 0 or line == "usage" or line.startswith("cwm: "), (line, argv)
            assert not GUARD.found, (GUARD.found, argv)
            if real:
                os.chdir(copy)
                assert apart(argv)[0] == status, argv
                os.chdir(folder)
            if status:
                break
        around = {path.name for path in folder.parent.iterdir()}
        around |= {path.name for path in folder.parents[1].iterdir()}
        assert around <= {"here", "inside", "copy"}, around
        return "refused" if status else "accepted"


def attack(kind: Kind, inputs: int, seed: int, sample: int = 0) -> tuple[Counter, dict[str, str]]:
    """So many inputs of a kind: how many were accepted and refused, and each sort of bad answer.

    sample: every so many also in a real process.
    """
    counts: Counter = Counter()
    bad: dict[str, str] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(st.data())
    def one(data: st.DataObject) -> None:
        tried = counts.total()
        try:
            counts[answer(kind, data.draw, bool(sample) and tried % sample == sample - 1)] += 1
        except (Exception, Hang) as error:
            if isinstance(error, hypothesis.errors.HypothesisException):
                raise
            counts["bad"] += 1
            frames = traceback.extract_tb(error.__traceback__)
            where = [f"{f.filename}:{f.lineno}" for f in frames if "/fuzz/" not in f.filename]
            ours = [place for place in where if "/cwm/" in place or "/envs/" in place] or [""]
            bad.setdefault(f"{type(error).__name__} {ours[-1]}", said(error))

    handlers = {n: signal.getsignal(n) for n in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGALRM, _too_long)
    try:
        one()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return counts, bad


def said(error: BaseException) -> str:
    """An exception as people look for it, less the frames of libraries above ours."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = traceback.format_list([f for f in frames if "/typer/" not in f.filename])
    return "".join(lines[-8:]) + repr(error)[:1000]


def main() -> None:
    """The long form."""
    import kinds

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=6000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--only", default="", help="one kind")
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    logging.getLogger().addHandler(logging.NullHandler())
    total: Counter = Counter()
    bad: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="cwm-fuzz-") as name:
        made = kinds.make(Path(name))
        print(f"seed {asked.seed}")
        print("kind".ljust(14) + "    inputs   refused  accepted       bad  seconds")
        for kind, share in made.items():
            if asked.only not in ("", kind.__name__):
                continue
            inputs, start = round(share * asked.inputs), time.monotonic()
            counts, found = attack(kind, inputs, asked.seed, sample=SAMPLE)
            row = (counts.total(), counts["refused"], counts["accepted"], counts["bad"])
            print(kind.__name__.ljust(14) + "".join(f"{n:10}" for n in row), end="")
            print(f"{time.monotonic() - start:9.0f}", flush=True)
            total += counts
            bad |= {f"{kind.__name__}: {what}": text for what, text in found.items()}
    row = (total.total(), total["refused"], total["accepted"], total["bad"])
    print("all".ljust(14) + "".join(f"{n:10}" for n in row))
    for what, text in bad.items():
        print(f"\n--- {what}\n{text}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    import fuzz  # once, as `kinds` knows it

    fuzz.main()
