"""`carla_server.Server` with real processes that listen, hang, crash and start children."""

import os
import signal
import subprocess
import sys
import time

import pytest

import envs
from envs import carla_server
from envs.carla_server import Server, ServerConfig

# The words after the port select the behaviour: crash, deaf, stubborn, child.
LISTENER = """
import signal, socket, subprocess, sys, time
port, how = int(sys.argv[1]), sys.argv[2:]
if "crash" in how:
    sys.exit("no Vulkan here")
if "stubborn" in how:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "child" in how:  # as CarlaUE4.sh starts the simulator
    sys.exit(subprocess.call([sys.executable, __file__, str(port)]))
if "deaf" in how:
    time.sleep(60)
server = socket.create_server(("127.0.0.1", port))
print("listening", flush=True)
while True:
    server.accept()[0].close()
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path):
    monkeypatch.setattr(carla_server, "POLL", 0.02)
    monkeypatch.setattr(carla_server.tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "listener.py"
    path.write_text(LISTENER)
    return path


@pytest.fixture
def make(script):
    made = []

    def make(how="", **settings):
        command = f"{sys.executable} {script} {{port}} {how}"
        made.append(Server(ServerConfig(**{"command": command, "start_seconds": 60, **settings})))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def wait_until_closed(port):
    deadline = time.monotonic() + 30
    while carla_server._accepts_connections(port):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["", "child", "stubborn"])
def test_server_starts_on_a_free_port_and_stops(make, how):
    server, other = make(how), make()
    server.start()
    other.start()
    assert server.port != other.port and carla_server._accepts_connections(server.port)
    assert server.log.read_text() == "listening\n"
    server.stop()
    server.stop()
    wait_until_closed(server.port)
    assert carla_server._accepts_connections(other.port)


def test_crash_at_start_raises_with_last_log_line(make):
    server = make("crash")
    with pytest.raises(envs.EnvError, match="exited with status 1: no Vulkan here") as error:
        server.start()
    assert str(server.log) in str(error.value) and "\n" not in str(error.value)


def test_start_timeout_raises(make):
    server = make("deaf", start_seconds=0.6)
    with pytest.raises(envs.EnvError, match=r"did not start within 0.6 s: no output"):
        server.start()


def test_missing_program_raises(make):
    server = make(command="/nowhere/CarlaUE4.sh {port}")
    with pytest.raises(envs.EnvError, match=r"exited with status 127: .*/nowhere/CarlaUE4.sh"):
        server.start()


def test_command_without_port_raises(make):
    with pytest.raises(envs.EnvError, match=r"'CarlaUE4.sh'; it must contain \{port\}"):
        make(command="CarlaUE4.sh")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_server_ends_with_the_process_that_started_it(script, tmp_path, number):
    code = f"""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner may ignore it
from envs.carla_server import Server, ServerConfig
server = Server(ServerConfig("{sys.executable} {script} {{port}} child"))
server.start()
print(server.port, flush=True)
time.sleep(60)
"""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    argv = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, env=environment) as owner:
        port = int(owner.stdout.readline())
        owner.send_signal(number)
    wait_until_closed(port)
