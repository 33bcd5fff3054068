"""Starts and stops the CARLA server of one environment.

Every environment needs a server of its own, because its ticks advance the server's time.
"""

import logging
import shlex
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from envs.errors import EnvError

POLL = 0.2  # seconds between checks of a server that is starting
HOST = "127.0.0.1"
EXAMPLE = "/opt/carla/CarlaUE4.sh -RenderOffScreen -nosound -carla-rpc-port={port}"

# Runs the command "$@" in its own process group. Stdin is a pipe from this process, and the kernel
# closes it however this process ends; the watcher then ends the whole group.
WATCHED = """
exec 3<&0
(trap '' TERM; read -r _ <&3; kill 0; sleep 5; kill -KILL 0) >/dev/null 2>&1 &
exec "$@" 3<&- </dev/null
"""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ServerConfig:
    """How to start CARLA servers."""

    command: str  # starts one; {port} stands for its port
    start_seconds: float = 120.0  # until a server accepts connections
    answer_seconds: float = 30.0  # until it answers a call


class Server:
    """A server on a free port of this machine; EnvError if the command has no `{port}`."""

    port: int  # both are set by `start`
    log: Path

    def __init__(self, cfg: ServerConfig) -> None:
        if "{port}" not in cfg.command:
            raise EnvError(f"env.server.command is {cfg.command!r}; it must contain {{port}}")
        self.cfg = cfg
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the server; EnvError if it accepts no connections within `start_seconds`."""
        self.port = free_port()
        words = [word.replace("{port}", str(self.port)) for word in shlex.split(self.cfg.command)]
        with tempfile.NamedTemporaryFile(prefix="cwm-carla-", suffix=".log", delete=False) as log:
            self.log = Path(log.name)
            self._process = subprocess.Popen(
                ["sh", "-c", WATCHED, "sh", *words],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        logging.info("starting a CARLA server on port %d, log: %s", self.port, self.log)
        deadline = time.monotonic() + self.cfg.start_seconds
        while not _accepts_connections(self.port):
            status, late = self._process.poll(), time.monotonic() >= deadline
            if status is not None or late:
                self.stop()
                what = f"did not start within {self.cfg.start_seconds:g} s"
                what = what if status is None else f"exited with status {status}"
                last = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
                raise EnvError(f"the CARLA server {what}: {last or 'no output'} (log: {self.log})")
            time.sleep(POLL)

    def stop(self) -> None:
        """End the server and all processes that it started."""
        if self._process is not None:
            self._process.communicate()  # closes stdin, then waits
            self._process = None


def free_port() -> int:
    """A TCP port that nothing uses now."""
    with socket.create_server((HOST, 0)) as probe:
        return probe.getsockname()[1]


def _accepts_connections(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=2).close()
    except OSError:
        return False
    return True
