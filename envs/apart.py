"""An object in a process of its own, which may crash or hang without taking this one along."""

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HOME = str(Path(__file__).parents[1])


class Broken(RuntimeError):
    """The process died, or did not answer in time."""


class Apart:
    """`factory(*arguments)` in a fresh interpreter; its methods are called by name.

    What a method raises is raised here. A call that takes longer than `seconds` and a process that
    dies raise Broken; after that the object is gone. The process ends with this one, however that
    ends. (`multiprocessing` would import the caller's main module again, which may have no guard.)
    """

    def __init__(self, factory: Callable[..., Any], *arguments: Any, seconds: float) -> None:
        here, there = Pipe()
        start = f"import sys; sys.path[:] = {[HOME, *sys.path]}; from envs.apart import serve"
        code = f"{start}; serve({there.fileno()})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[there.fileno()], stdin=subprocess.DEVNULL
        )
        there.close()
        self._connection, self._seconds = here, seconds
        try:
            self._ask((factory, arguments))
        except Exception:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """The result of a method."""
        return self._ask((method, arguments))

    def _ask(self, question: tuple[Any, ...]) -> Any:
        try:
            self._connection.send(question)
            answered = self._connection.poll(self._seconds)
            raised, result = self._connection.recv() if answered else (True, None)
        except (EOFError, OSError):
            status = self.close()
            raise Broken(f"its process ended with status {status}") from None
        if not answered:
            self.close()
            raise Broken(f"its process did not answer within {self._seconds:g} s")
        if raised:
            raise result
        return result

    def close(self) -> int:
        """End the process, which is given a second to do so by itself; its exit status."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(1)
        self._process.kill()
        return self._process.wait()


def serve(descriptor: int) -> None:
    """The other side: make the object, then answer until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, with whom this ends
    connection, target = Connection(descriptor), None
    while True:
        try:
            what, arguments = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # threads of a client whose server is dead would not let go
        try:
            if target is None:
                target, answer = what(*arguments), (False, None)
            else:
                answer = (False, getattr(target, what)(*arguments))
        except Exception as error:
            error.add_note(f"in a process of its own:\n{traceback.format_exc()}")
            answer = (True, error)
        with contextlib.suppress(OSError):
            connection.send(answer)
