"""Start the services of compose.yaml on 127.0.0.1, without Docker."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
PACKAGES = "apt-get install -y --no-install-recommends postgresql"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Database:
    """PostgreSQL in a temporary folder, with an unprivileged user and a password."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            pytest.exit(f"PostgreSQL is missing. As root: {PACKAGES}", returncode=2)
        self.programs = found[-1].parent
        self.folder = Path(tempfile.mkdtemp(prefix="cwm-box-"))
        self.port = free_port()
        self.password = f"{secrets.token_hex(8)} $@:/%'"  # needs escaping in a URL

    def make(self) -> None:
        """Create the database, as the image does when it first starts."""
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(self.folder, "postgres", "postgres")
        (self.folder / "password").write_text(self.password)
        self(
            "initdb",
            "--username=mlflow",
            "--auth=scram-sha-256",
            f"--pwfile={self.folder}/password",
        )
        self.start()
        self("createdb", "--host=127.0.0.1", f"--port={self.port}", "--username=mlflow", "mlflow")

    def __call__(self, program: str, *arguments: str) -> str:
        environment = {"PGPASSWORD": self.password, "PGDATA": f"{self.folder}/data", "LC_ALL": "C"}
        user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        command = [self.programs / program, *arguments]
        log = (self.folder / "log").open("a+")
        subprocess.run(
            command, env=environment, cwd="/", stdout=log, stderr=log, check=True, **user
        )

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k ''"
        self("pg_ctl", "start", "--wait", "-o", options)

    def crash(self) -> None:
        self("pg_ctl", "stop", "--mode=immediate")

    def freeze(self, number: int = signal.SIGSTOP) -> None:
        """Suspend it; after `thaw` it executes the requests that came meanwhile."""
        leader = psutil.Process(int((self.folder / "data/postmaster.pid").read_text().split()[0]))
        for process in [leader, *leader.children()]:
            with contextlib.suppress(psutil.NoSuchProcess):  # a connection that has just closed
                process.send_signal(number)

    def thaw(self) -> None:
        self.freeze(signal.SIGCONT)

    def rows(self, query: str, *values: object) -> list[tuple]:
        import psycopg2

        where = {"host": "127.0.0.1", "port": self.port, "user": "mlflow", "dbname": "mlflow"}
        connection = psycopg2.connect(**where, password=self.password)
        with connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()

    def remove(self) -> None:
        if (self.folder / "data/postmaster.pid").exists():
            self.thaw()
            self.crash()
        shutil.rmtree(self.folder)


class Server:
    """The tracking server, started by the command of compose.yaml with hosts and ports replaced."""

    def __init__(self, database: Database) -> None:
        self.port, self.database = free_port(), database
        self.folder = Path(tempfile.mkdtemp(prefix="cwm-box-"))
        self.names = {
            "@database:5432": f"@127.0.0.1:{database.port}",
            "=/home/cwm/": f"={self.folder}/",
            "--host=0.0.0.0": "--host=127.0.0.1",
            "--port=5000": f"--port={self.port}",
            "127.0.0.1:5000/": f"127.0.0.1:{self.port}/",  # in the health check
        }
        service = COMPOSE["mlflow"]
        self.command = self._here(service["command"])
        self.health = self._here(service["healthcheck"]["test"][1:])
        self.environment = {**os.environ, **service["environment"], "PGPASSWORD": database.password}
        self.uri = f"http://127.0.0.1:{self.port}"

    def _here(self, command: list[str]) -> list[str]:
        for name, ours in self.names.items():
            command = [word.replace(name, ours) for word in command]
        return command

    def start(self) -> None:
        log = (self.folder / "log").open("a")
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            cwd=self.folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        begin = time.monotonic()
        while subprocess.run(self.health, capture_output=True).returncode:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            assert time.monotonic() - begin < 600, "the server did not become healthy"
            time.sleep(0.5)
        print(f"server: healthy after {time.monotonic() - begin:.0f} s", file=sys.stderr)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)
