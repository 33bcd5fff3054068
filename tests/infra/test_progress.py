"""Progress: lines in a log, a bar on a terminal."""

import io
import os
import pty
import threading

import pytest

from cwm.infra.progress import Progress


class Clock:
    """A clock that the test advances."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_log_gets_the_first_and_last_line_and_one_every_ten_seconds():
    clock, log = Clock(), io.StringIO()
    with Progress(total=100, label="finetune toy", stream=log, clock=clock) as bar:
        for step in range(1, 61):
            clock.now += 0.5
            bar.update(step, {"image": 1 / step})
    lines = log.getvalue().splitlines()
    assert [line.split(" | ")[1] for line in lines] == [
        "1/100 (1%)",
        "21/100 (21%)",
        "41/100 (41%)",
        "60/100 (60%)",
    ]
    assert lines[1] == "finetune toy | 21/100 (21%) | 2 steps/s | eta 0:00:40 | image 0.047619"


def test_resumed_run_counts_only_its_own_steps_for_the_rate():
    clock, log = Clock(), io.StringIO()
    with Progress(total=4000, start=1000, stream=log, label="run", clock=clock) as bar:
        for step in (1008, 1016):
            clock.now += 1
            bar.update(step, {"image": 12345.6, "kl": 4.125, "rare": 1e-7})
    assert log.getvalue().splitlines()[-1] == (
        "run | 1016/4000 (25%) | 8 steps/s | eta 0:06:13 | image 12346  kl 4.125  rare 1e-07"
    )


def test_phase_shows_its_own_count_and_rate():
    clock, log = Clock(), io.StringIO()
    with Progress(total=4000, start=1000, stream=log, label="run", clock=clock) as bar:
        with bar.phase("offline updates", total=100, unit="updates"):
            for done in range(1, 42):
                clock.now += 0.5
                bar.update(done)
        bar.update(1001)
    assert log.getvalue().splitlines()[-2:] == [
        "run, offline updates | 41/100 (41%) | 2 updates/s | eta 0:00:30",
        "run | 1001/4000 (25%)",
    ]


def test_missing_loss_keeps_its_value():
    clock, log = Clock(), io.StringIO()
    with Progress(total=10, stream=log, label="run", clock=clock) as bar:
        bar.update(1, {"image": 3.0, "kl": 1.0})
        bar.update(2, {"kl": 2.0})
    assert log.getvalue().splitlines()[-1].endswith("image 3  kl 2")


def test_rate_ignores_a_slow_first_step():
    clock = Clock()
    with Progress(total=1000, stream=io.StringIO(), clock=clock) as bar:
        clock.now += 1000
        bar.update(1)
        for step in range(2, 202):
            clock.now += 0.25
            bar.update(step)
        assert bar.rate == pytest.approx(4.0)


def test_interrupted_run_shows_the_step_it_reached():
    clock, log = Clock(), io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        Progress(total=10, stream=log, label="run", clock=clock) as bar,
    ):
        bar.update(1)
        bar.update(7)
        raise KeyboardInterrupt
    assert log.getvalue().splitlines()[-1].startswith("run | 7/10 (70%)")


def test_terminal_gets_one_line_that_is_redrawn(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    reader, writer = pty.openpty()
    seen = bytearray()

    def drain():
        while True:
            try:
                part = os.read(reader, 4096)
            except OSError:  # the writer is closed
                return
            seen.extend(part)

    thread = threading.Thread(target=drain)
    thread.start()
    with (
        os.fdopen(writer, "w") as terminal,
        Progress(total=20, label="run [a/b]", stream=terminal) as bar,
    ):
        for step in range(1, 21):
            bar.update(step, {"image": 0.5})
    thread.join()
    os.close(reader)
    text = seen.decode()
    assert "run [a/b]" in text
    assert "20/20 (100%)" in text
    assert "image 0.5" in text
    assert text.count("\n") < 5  # not one line per step
