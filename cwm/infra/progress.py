"""Progress that a person can watch: a bar on a terminal, calm lines in a log."""

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

WINDOW = 30.0  # the rate is that of the last seconds: the first steps are slow and say little


class Progress:
    """Steps done, their rate, the time left and the latest losses.

    total, start: steps of the whole work and of what earlier sittings have done.
    every: seconds between two lines where the stream is not a terminal.
    clock: monotonic seconds.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        label: str = "",
        stream: TextIO | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.step, self.label = total, start, label
        self.every, self.clock = every, clock
        self.losses: dict[str, float] = {}
        self.console = Console(file=stream or sys.stderr)
        self.bar: Bar | None = None
        self.recent: deque[tuple[float, int]] = deque()
        self.printed: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        """Start counting time."""
        self.recent.append((self.clock(), self.step))
        if self.console.is_interactive:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[text]}", markup=False),
            )
            self.bar = Bar(*columns, console=self.console)
            self.task = self.bar.add_task(
                self.label, total=self.total, completed=self.step, text=self._text()
            )
            self.bar.start()
        return self

    def update(self, step: int, losses: Mapping[str, float] | None = None) -> None:
        """Say that `step` steps are done; losses not given keep their last value."""
        now, self.step = self.clock(), step
        self.losses |= losses or {}
        self.recent.append((now, step))
        while len(self.recent) > 2 and self.recent[1][0] <= now - WINDOW:
            self.recent.popleft()
        if self.bar:
            self.bar.update(self.task, completed=step, text=self._text())
        elif self.printed is None or now - self.printed[0] >= self.every:
            self._print(now)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state to be read."""
        if self.bar:
            self.bar.stop()
        elif self.printed is None or self.printed[1] != self.step:
            self._print(self.clock())

    @property
    def rate(self) -> float:
        """Steps per second of late; 0 before the first step."""
        (begin, first), (end, last) = self.recent[0], self.recent[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    def _print(self, now: float) -> None:
        self.printed = (now, self.step)
        self.console.file.write(f"{self.label} | {self._text()}\n")
        self.console.file.flush()

    def _text(self) -> str:
        """`400/960 (42%) | 8.1 steps/s | eta 1:09 | image 12.3  kl 4.1`."""
        parts = [f"{self.step}/{self.total} ({self.step / max(self.total, 1):.0%})"]
        if self.rate > 0:
            left = (self.total - self.step) / self.rate
            parts += [f"{self.rate:.3g} steps/s", f"eta {_clock_face(left)}"]
        if self.losses:
            parts.append("  ".join(f"{name} {_short(x)}" for name, x in self.losses.items()))
        return " | ".join(parts)


def _short(value: float) -> str:
    """Three figures, and no exponent where the number can be read without."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def _clock_face(seconds: float) -> str:
    """`0:09`, `12:34` or `3:00:05`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
