"""The viewer's server, really running: addresses, origins, malformed messages, several pages."""

import json
import socket
import threading

import numpy as np
import pytest
import requests
import uvicorn
from test_session import RandomClips
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from cwm.infra.errors import UserError
from cwm.viewer import server
from cwm.viewer.session import LENGTH, Session

MODELS = ["contextwm", "plain"]
SHOW = {"do": "clip", "clip": 0, "observed": 5, "context": {"kind": "own"}}


@pytest.fixture(scope="module")
def port(models):
    """The port of a running server."""
    agents = {"sphere": (models["agent"], "toy/sphere", models["agent"].settings.env)}
    pretrained = {name: models[name] for name in MODELS}
    listener = socket.create_server(("127.0.0.1", 0))
    number = listener.getsockname()[1]
    app = server.application(lambda: Session(pretrained, agents, RandomClips()), number)
    config = uvicorn.Config(app, log_level="error", ws=server.PROTOCOL, ws_max_size=server.LARGEST)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield number
    running.should_exit = True
    thread.join()


def page(port, origin="http://127.0.0.1:{}"):
    return connect(f"ws://127.0.0.1:{port}/talk", origin=origin.format(port), max_size=None)


def answer(websocket):
    facts, _, body = websocket.recv().partition(b"\n")
    return json.loads(facts), body


def test_page_names_no_other_host_and_allows_only_its_own_script(port):
    found = requests.get(f"http://127.0.0.1:{port}/")
    assert found.status_code == 200 and "NONCE" not in found.text
    policy = found.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "://" not in found.text.replace("ws://${location.host}", "")


def test_other_hosts_and_origins_are_refused(port):
    """A page of another site may neither read the page nor talk to the server."""
    found = requests.get(f"http://127.0.0.1:{port}/", headers={"Host": "evil.example"})
    assert found.status_code == 400
    for origin in ("http://evil.example", "http://127.0.0.1:1", "null"):
        with pytest.raises(InvalidStatus, match="403"):
            page(port, origin)
    assert requests.get(f"http://127.0.0.1:{port}/../session.py").status_code == 404


def test_two_pages_have_states_of_their_own(port):
    with page(port) as one, page(port, "http://localhost:{}") as two:
        assert list(answer(one)[0]["models"]) == list(answer(two)[0]["models"]) == MODELS
        one.send(json.dumps(SHOW))
        two.send(json.dumps(SHOW | {"clip": 1}))
        for websocket, clip in ((one, 0), (two, 1)):
            facts, body = answer(websocket)
            assert facts["clip"] == clip
            truth = np.frombuffer(body, np.uint8)[: LENGTH * 64 * 64 * 3]
            np.testing.assert_array_equal(truth, RandomClips().frames(clip).ravel())


@pytest.mark.parametrize(
    "message", ["", "{", "[]", "null", '{"do": 1}', '{"do": "clip"}', "\0", "9" * 5000, b"\x00\xff"]
)
def test_malformed_messages_are_answered_and_the_page_goes_on(port, message):
    with page(port) as websocket:
        answer(websocket)
        websocket.send(message)
        facts, _ = answer(websocket)
        assert facts["do"] == "error" and "\n" not in facts["message"]
        websocket.send(json.dumps(SHOW))
        assert answer(websocket)[0]["do"] == "clip"


def test_a_huge_message_closes_only_its_page(port):
    with page(port) as websocket:
        answer(websocket)
        with pytest.raises(ConnectionClosed):
            websocket.send("x" * 2**20)
            websocket.recv()
    with page(port) as websocket:
        assert answer(websocket)[0]["do"] == "hello"


def test_a_port_in_use_is_an_error(port):
    with pytest.raises(UserError, match=f"cannot listen on port {port}: Address already in use"):
        server.serve(lambda: None, port, show=False)
