"""Progress of a run: a bar on a terminal, otherwise a line every ten seconds."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

REFRESH = 0.1  # seconds; steps may be much shorter


class Progress:
    """Steps done, steps per second over the last 30 seconds, time left and the latest losses.

    total: steps of the whole run. start: steps done before this process resumed it.
    every: seconds between two lines if `stream` (default stderr) is not a terminal.
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
        self.every, self.clock = every, clock
        self.losses: dict[str, float] = {}
        self.unit = "steps"
        console = Console(file=stream or sys.stderr)
        self.stream = None if console.is_interactive else console.file
        self.next_line, self.line = 0.0, ""
        self.next_refresh, self.done, self.shown = 0.0, start, True
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}", markup=False),
        )
        off = self.stream is not None
        self.bar = RichProgress(*columns, console=console, get_time=clock, disable=off)
        self._add_task(label, total, start)

    def __enter__(self) -> Self:
        """Show the bar on a terminal."""
        self.bar.start()
        return self

    def _add_task(self, label: str, total: int, start: int = 0) -> None:
        self.bar.add_task(label, total=total, completed=start, text="")
        self.task = self.bar.tasks[-1]

    @contextmanager
    def phase(self, name: str, total: int, unit: str) -> Iterator[None]:
        """Inside this context, show the progress of another count, such as offline updates."""
        self._refresh()
        outer = self.task, self.unit
        self._add_task(f"{self.task.description}, {name}", total)
        self.unit = unit
        yield
        self._refresh()
        self.bar.remove_task(self.task.id)
        self.task, self.unit = outer

    def update(self, done: int, losses: Mapping[str, float] | None = None) -> None:
        """Show how many steps are done; losses that are not given keep their last value."""
        self.losses |= losses or {}
        self.done, self.shown = done, False
        if self.clock() >= self.next_refresh:
            self._refresh()

    def _refresh(self) -> None:
        if self.shown:
            return
        self.next_refresh, self.shown = self.clock() + REFRESH, True
        self.bar.update(self.task.id, completed=self.done)
        text = self._text()
        self.bar.update(self.task.id, text=text)
        self.line = f"{self.task.description} | {text}\n"
        if self.clock() >= self.next_line:
            self._print_line()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state visible."""
        self._refresh()
        self.bar.stop()
        self._print_line()

    @property
    def rate(self) -> float:
        """Steps per second; 0 before the second update."""
        return self.task.speed or 0.0

    def _print_line(self) -> None:
        if self.stream and self.line:
            self.stream.write(self.line)
            self.stream.flush()
        self.line, self.next_line = "", self.clock() + self.every

    def _text(self) -> str:
        """Return `400/960 (42%) | 8.1 steps/s | eta 0:01:09 | image 12.3  kl 4.1`."""
        task = self.task
        parts = [f"{task.completed}/{task.total} ({task.percentage:.0f}%)"]
        if task.time_remaining is not None and self.rate:
            eta = timedelta(seconds=task.time_remaining)
            parts += [f"{self.rate:.3g} {self.unit}/s", f"eta {eta}"]
        if self.losses:
            parts.append("  ".join(f"{name} {x:.5g}" for name, x in self.losses.items()))
        return " | ".join(parts)
