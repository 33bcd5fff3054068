"""`cwm dream`, really running."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from websockets.sync.client import connect

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def viewer(*words, port=0):
    """A running viewer; yields its address."""
    command = [Path(sys.executable).with_name("cwm"), "dream", *map(str, words)]
    command += ["--port", str(port), "--no-browser"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stderr=pipe, text=True, env=environment) as process:
        try:
            seen = []
            for line in process.stderr:
                seen.append(line)
                if found := re.search(r"http://127.0.0.1:\d+", line):
                    yield found[0] + "/"
                    break
            else:
                raise AssertionError("".join(seen))
        finally:
            process.terminate()


def asked(address, **message):
    """The facts that a page gets when it is opened, and the facts and bytes of an answer."""
    with connect(
        address.replace("http", "ws") + "talk", origin=address.rstrip("/"), max_size=None
    ) as page:
        hello, _ = page.recv().split(b"\n", 1)
        page.send(json.dumps(message))
        facts, body = page.recv().split(b"\n", 1)
    return json.loads(hello), json.loads(facts), body
