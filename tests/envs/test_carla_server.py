"""The supervisor, with real processes that listen, hang, crash and have children."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import envs
from envs import carla_server
from envs.carla_server import Server, ServerConfig

# It behaves by the words that follow the port: slow, deaf, crash, stubborn, child.
LISTENER = """
import os, signal, socket, subprocess, sys, time
port, how = int(sys.argv[1]), sys.argv[2:]
if "crash" in how:
    sys.exit("no Vulkan here")
if "once" in how and not os.path.exists(how[-1]):
    open(how[-1], "w").close()
    sys.exit("not yet")
if "stubborn" in how:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "child" in how:  # as CarlaUE4.sh starts the simulator proper
    sys.exit(subprocess.call([sys.executable, __file__, str(port)]))
if "deaf" in how:
    time.sleep(60)
if "slow" in how:
    time.sleep(0.5)
server = socket.create_server(("127.0.0.1", port))
print("listening", flush=True)
while True:
    server.accept()[0].close()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch, tmp_path):
    monkeypatch.setattr(carla_server, "POLL", 0.02)
    monkeypatch.setattr(carla_server, "GRACE", 0.5)
    monkeypatch.setattr(carla_server.tempfile, "gettempdir", lambda: str(tmp_path))


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def make(tmp_path, port):
    script = tmp_path / "listener.py"
    script.write_text(LISTENER)
    made = []

    def make(how="", **settings):
        command = f"{sys.executable} {script} {{port}} {how}" if how is not None else ""
        settings = {"command": command, "port": port, "start_seconds": 10, **settings}
        made.append(Server(ServerConfig(**settings)))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.mark.parametrize("how", ["", "slow", "child", "stubborn"])
def test_it_is_started_and_stopped(make, port, how):
    server = make(how)
    assert not server.healthy()
    server.start()
    assert server.healthy() and carla_server.listens("127.0.0.1", port)
    assert server.log.read_text() == "listening\n"
    server.stop()
    server.stop()
    assert not carla_server.listens("127.0.0.1", port)


def test_a_dead_one_is_noticed_and_replaced(make):
    server = make("child")
    server.start()
    first = server._process.pid
    os.killpg(first, signal.SIGKILL)
    server._process.wait()
    assert not server.healthy()
    server.start()
    assert server.healthy() and server._process.pid != first


def test_a_hanging_one_is_replaced(make):
    server = make()
    server.start()
    os.killpg(server._process.pid, signal.SIGSTOP)
    server.restart()
    assert server.healthy()


def test_attempts_are_bounded_and_the_log_is_quoted(make, caplog):
    server = make("crash", attempts=2)
    with pytest.raises(envs.EnvError, match="ended with status 1: no Vulkan here") as error:
        server.start()
    assert str(server.log) in str(error.value) and "\n" not in str(error.value)
    assert caplog.text.count("once more") == 1
    assert server._process is None


def test_one_that_starts_at_the_second_attempt_is_taken(make, tmp_path):
    server = make(f"once {tmp_path}/flag")
    server.start()
    assert server.healthy()


def test_one_that_never_answers_is_ended(make):
    server = make("deaf", attempts=1, start_seconds=0.6)
    with pytest.raises(envs.EnvError, match=r"did not answer within 0.6 s: it said nothing"):
        server.start()


def test_a_command_that_is_none_is_named(make):
    server = make(command="/nowhere/CarlaUE4.sh {port}")
    with pytest.raises(envs.EnvError, match=r"cannot start .*/CarlaUE4.sh: .*No such file"):
        server.start()


def test_a_command_without_a_port_is_refused(make):
    with pytest.raises(envs.EnvError, match=r"'CarlaUE4.sh', which has no \{port\} in it"):
        make(command="CarlaUE4.sh")


def test_one_that_runs_already_is_taken_and_left_running(make, port):
    with socket.create_server(("127.0.0.1", port)):
        server = make("crash")
        server.start()
        server.close()
        assert carla_server.listens("127.0.0.1", port)


def test_one_of_somebody_else_is_asked_for_at_once_and_waited_for_later(make, port):
    server = make(how=None, start_seconds=5)
    began = time.monotonic()
    with pytest.raises(envs.EnvError, match=f"no CARLA server answers at 127.0.0.1:{port}"):
        server.start(wait=False)
    assert time.monotonic() - began < 1
    code = LISTENER.replace("server = socket", "time.sleep(0.3); server = socket")
    other = subprocess.Popen([sys.executable, "-c", code, str(port)], stdout=subprocess.DEVNULL)
    server.restart()
    assert server.healthy()
    other.kill()
    other.wait()


def test_environments_take_ports_that_nobody_else_has(make, port):
    code = (
        "import time; from envs.carla_server import _claim;"
        f"kept = _claim({port}); print(kept[0], flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert int(other.stdout.readline()) == port
    one, two = make(), make()
    assert (one.port, two.port) == (port + 10, port + 20)
    other.kill()  # and so its port is free at once
    other.wait()
    other.stdout.close()
    one.close()
    assert [make().port, make().port] == [port, port + 10]


def test_it_ends_with_the_program_that_started_it(make, tmp_path, port):
    make().close()
    code = f"""
from envs.carla_server import Server, ServerConfig
server = Server(ServerConfig("{sys.executable} {tmp_path}/listener.py {{port}}", port={port}))
server.start()
raise KeyboardInterrupt
"""
    command, own = [sys.executable, "-c", code], os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=own)
    assert "KeyboardInterrupt" in done.stderr
    assert not carla_server.listens("127.0.0.1", port)
