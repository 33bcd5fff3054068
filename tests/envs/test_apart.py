"""An object in another process: it answers, it raises, it dies, it hangs."""

import os
import signal
import subprocess
import sys
import time

import pytest

from envs.apart import Apart, Broken


class Adder:
    def __init__(self, base):
        self.base = base

    def add(self, number):
        return self.base + number

    def raise_(self, error):
        raise error

    def die(self):
        os.abort()  # what an exception in a thread of a C++ library comes to

    def hang(self):
        time.sleep(60)

    def pid(self):
        return os.getpid()


@pytest.fixture
def adder():
    adder = Apart(Adder, 3, seconds=20)
    yield adder
    adder.close()
    adder.close()


def test_it_answers_and_raises_as_if_it_were_here(adder):
    assert adder.call("add", 4) == 7
    with pytest.raises(KeyError, match="that") as error:
        adder.call("raise_", KeyError("that"))
    assert "in raise_" in error.value.__notes__[0]
    assert adder.call("pid") not in (os.getpid(), None)


def test_it_may_die_and_hang(adder, capfd):
    with pytest.raises(Broken, match="ended with status -6"):
        adder.call("die")
    with pytest.raises(Broken, match="ended"):
        adder.call("add", 1)
    capfd.readouterr()
    slow = Apart(Adder, 3, seconds=20)
    pid, slow._seconds = slow.call("pid"), 1
    with pytest.raises(Broken, match="did not answer within 1 s"):
        slow.call("hang")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_constructor_that_fails_leaves_nothing_behind():
    with pytest.raises(TypeError):
        Apart(Adder, 1, 2, seconds=20)


def test_it_ends_with_its_owner():
    code = f"""
import sys, time
sys.path[:] = {sys.path!r}
from test_apart import Adder
from envs.apart import Apart
print(Apart(Adder, 3, seconds=20).call("pid"), flush=True); keep = Apart(Adder, 3, seconds=20)
print(keep.call("pid"), flush=True)
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(owner.stdout.readline()) for _ in range(2)]
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 10
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
