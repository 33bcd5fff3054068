"""Control a headless Chromium by the DevTools protocol over a pair of pipes."""

import itertools
import json
import os
import subprocess
import tempfile
import time


class Chromium:
    """One page of a browser, by default offline: `with Chromium() as browser`."""

    def __init__(self, offline=True):
        self.offline = offline

    def __enter__(self):
        self.home = tempfile.TemporaryDirectory()
        theirs, self.write = os.pipe()
        self.read, theirs_too = os.pipe()
        switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        switches.append(f"--user-data-dir={self.home.name}")
        script = f'exec chromium "$@" 3<&{theirs} 4>&{theirs_too}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "chromium", *switches],
            pass_fds=(theirs, theirs_too),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(theirs_too)
        self.numbers, self.events, self.rest, self.session = itertools.count(1), [], b"", None
        page = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        nothing = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self("Network.emulateNetworkConditions", offline=self.offline, **nothing)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        os.close(self.write)
        os.close(self.read)
        self.home.cleanup()

    def __call__(self, method, **params):
        """Send a command and return its result; events that arrive meanwhile go to `events`."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self):
        while b"\0" not in self.rest:
            part = os.read(self.read, 1 << 16)
            assert part, "Chromium has ended"
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, path):
        """Open a file and wait until it has loaded."""
        self.events.clear()
        self("Page.navigate", url=path.absolute().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def visit(self, address):
        """Open a web page and wait until it has loaded."""
        self.events.clear()
        self("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && location.href === '{address}'")

    def evaluate(self, script):
        """The value of a script; a promise is awaited."""
        result = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"timed out waiting for {condition}"
            time.sleep(0.05)

    def complaints(self):
        """Console messages: errors, warnings and blocked loads."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            match event.get("method"):
                case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                    found.append(params["entry"]["text"])
                case "Runtime.exceptionThrown":
                    found.append(params["exceptionDetails"]["text"])
                case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                    found.append(str(params["args"]))
        return found

    def requests(self):
        """Requested URLs."""
        sent = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]
