"""A CARLA server to drive in: found or started, watched, restarted and stopped.

Each environment needs a server of its own, as its ticks are the server's time. The first one of
this machine takes `port`, the next one `port + 10` and so on; a name that the system frees with the
process keeps others off a port that is taken.
"""

import atexit
import logging
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from envs.errors import EnvError

APART = 10  # ports from one server to the next; a server uses three
MANY = 100  # servers of one machine
POLL = 0.2  # seconds between looks at a server that starts
GRACE = 5.0  # seconds that it has to end by itself
SHELL = "./CarlaUE4.sh -RenderOffScreen -nosound -carla-rpc-port={port}"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ServerConfig:
    """Where CARLA's servers are, or how to start them."""

    command: str = ""  # starts one, with {port} in it; empty: they are started by somebody else
    host: str = "127.0.0.1"
    port: int = 2000  # of the first
    start_seconds: float = 120.0  # until a server answers
    answer_seconds: float = 30.0  # until it answers a call
    attempts: PositiveInt = 3  # servers in a row that fail, before one gives up


class Server:
    """The server of one environment."""

    def __init__(self, cfg: ServerConfig) -> None:
        self.cfg, self._words = cfg, shlex.split(cfg.command)
        if cfg.command and not any("{port}" in word for word in self._words):
            raise EnvError(f"env.server.command is {cfg.command!r}, which has no {{port}} in it")
        self.port, self._name = _claim(cfg.port)
        self.log = Path(tempfile.gettempdir(), f"cwm-carla-{os.getuid()}-{self.port}.log")
        self._process: subprocess.Popen | None = None
        atexit.register(self.stop)  # SIGKILL alone leaves a server, which the next run takes

    @property
    def address(self) -> str:
        """For people."""
        return f"{self.cfg.host}:{self.port}"

    def healthy(self) -> bool:
        """Whether the server takes connections, and has not ended."""
        running = self._process is None or self._process.poll() is None
        return running and listens(self.cfg.host, self.port)

    def start(self, wait: bool = True) -> None:
        """Return as soon as the server answers; start it first if it does not and we may.

        A server that already answers is taken as it is: somebody started it, or a run that was
        killed has left it behind.

        Raises:
            EnvError: there is none, or none that answers within `start_seconds` (only at once,
                without `wait`, for one that we do not start).
        """
        if self.healthy():
            return
        if not self.cfg.command:
            self._wait(self.cfg.start_seconds if wait else 0)
            return
        for left in reversed(range(self.cfg.attempts)):
            self.stop()
            self._spawn()
            try:
                self._wait(self.cfg.start_seconds)
                return
            except EnvError as error:
                self.stop()
                if not left:
                    raise
                logging.warning("%s; once more", error)

    def restart(self) -> None:
        """A new server in the place of ours; one that is not ours is waited for."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """End a server that we started, and all processes that it started."""
        if self._process is None:
            return
        deadline = time.monotonic() + GRACE
        while self._signal(signal.SIGTERM) and time.monotonic() < deadline:
            self._process.poll()  # else a dead leader would count as living
            time.sleep(0.05)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _signal(self, number: int) -> bool:
        """Send it to the process that we started and to all that it started; whether any lives."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Stop the server and leave its port to others."""
        self.stop()
        self._name.close()
        atexit.unregister(self.stop)

    def _spawn(self) -> None:
        words = [word.replace("{port}", str(self.port)) for word in self._words]
        with self.log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise EnvError(f"cannot start a CARLA server: {words[0]}: {error}") from None
        logging.info("a CARLA server starts on port %d, its log is %s", self.port, self.log)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.healthy():
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() >= deadline:
                raise EnvError(self._nothing(ended))
            time.sleep(POLL)

    def _nothing(self, ended: bool) -> str:
        if self._process is None:
            return (
                f"no CARLA server answers at {self.address} (every environment needs its own,"
                f" {APART} ports apart); start one: {SHELL.format(port=self.port)}; or set"
                " env.server.command to what starts it; or take the suite `driving`, which needs"
                " none (docs/carla.md)"
            )
        lines = self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        what = (
            f"ended with status {self._process.returncode}"
            if ended
            else f"did not answer within {self.cfg.start_seconds:g} s"
        )
        return f"the CARLA server on port {self.port} {what}: {lines[-1]} ({self.log})"


def listens(host: str, port: int) -> bool:
    """Whether anything takes connections there."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def _claim(first: int) -> tuple[int, socket.socket]:
    """The first port that no other environment of this machine has, and what keeps it ours."""
    for port in range(first, first + APART * MANY, APART):
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0cwm-carla-{port}")  # no file: it is gone with the process
            return port, name
        except OSError:
            name.close()
    raise EnvError(f"all {MANY} ports from {first} on have a CARLA environment already")
